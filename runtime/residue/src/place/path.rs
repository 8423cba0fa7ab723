//! Files, block devices, directories, and the kernel's view of physical memory.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::Path;

use rustix::io::Errno;

use crate::index::Index;
use crate::pass::Pass;
use crate::report::{Progress, ScanReport};
use crate::scanner::{ScanError, open};

pub(crate) fn scan(
    index: &Index,
    path: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<ScanReport, ScanError> {
    let failed = |source| ScanError::Open { path: path.to_owned(), source };
    let kind = fs::metadata(path).map_err(failed)?.file_type();
    let name = path.display().to_string();

    if kind.is_dir() {
        let mut pass = Pass::over(index, name, None, progress);
        directory(&mut pass, path).map_err(failed)?;
        return Ok(pass.done());
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(ScanError::Kind { path: path.to_owned() });
    }
    let mut file = open(path)?;
    let length = length(&mut file).map_err(failed)?;
    if path == Path::new(KCORE) {
        let segments = segments(&file).map_err(failed)?;
        let total = segments.iter().map(|segment| segment.range.end - segment.range.start).sum();
        let mut pass = Pass::over(index, name, Some(total), progress);
        kernel_memory(&mut pass, &file, &segments);
        return Ok(pass.done());
    }
    let mut pass = Pass::over(index, name, (length > 0).then_some(length), progress);
    contents(&mut pass, path, file, length);
    Ok(pass.done())
}

/// Scans all regular files below `root`.
fn directory(pass: &mut Pass<'_>, root: &Path) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(root)?.collect();
    let mut entries_left = ENTRIES_MAX;
    while let Some(entry) = entries.pop() {
        if entries_left == 0 {
            let what = format!("{} and all that was still to be listed", root.display());
            pass.unreadable(what, 0, &format!("more than {ENTRIES_MAX} entries"));
            return Ok(());
        }
        entries_left -= 1;
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                pass.unreadable(format!("an entry below {}", root.display()), 0, &error);
                continue;
            }
        };
        let path = entry.path();
        let visited = entry.file_type().and_then(|kind| {
            if kind.is_dir() {
                entries.extend(fs::read_dir(&path)?);
            } else if kind.is_file() {
                let mut file = File::open(&path)?;
                let length = length(&mut file)?;
                contents(pass, &path, file, length);
            }
            Ok(())
        });
        if let Err(error) = visited {
            pass.unreadable(path.display().to_string(), 0, &error);
        }
    }
    Ok(())
}

/// Bytes in a file or device. Most files of /proc and /sys say zero and have contents all the same.
fn length(file: &mut File) -> io::Result<u64> {
    match file.metadata()? {
        metadata if metadata.is_file() => Ok(metadata.len()),
        _ => file.seek(SeekFrom::End(0)),
    }
}

/// Scans one file or device, without its holes.
fn contents(pass: &mut Pass<'_>, path: &Path, mut file: File, length: u64) {
    pass.next_part();
    let place = path.display().to_string();
    if length == 0 {
        if let Err(error) = pass.stream(&place, 0, &mut |room| file.read(room)) {
            pass.unreadable(place, 0, &error);
        }
        return;
    }
    let mut position = 0;
    while position < length {
        let data = next_data(&file, position, length);
        pass.absent(data.start - position);
        position = data.end;
        if !data.is_empty() {
            pass.range(&place, &file, data);
        }
    }
}

/// The next stretch of a file that is not a hole (lseek(2), SEEK_DATA), empty when only a hole
/// is left. What does not know holes, a device for one, is all data.
fn next_data(file: &File, position: u64, length: u64) -> Range<u64> {
    let start = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(position)) {
        Ok(start) => start.min(length),
        Err(Errno::NXIO) => return length..length,
        Err(_) => return position..length,
    };
    let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(start)).unwrap_or(length);
    start..end.clamp(start, length)
}

fn kernel_memory(pass: &mut Pass<'_>, file: &File, segments: &[Segment]) {
    for segment in segments {
        let bytes = segment.range.end - segment.range.start;
        let place = format!("kernel memory at {:#x}", segment.address);
        pass.next_part();
        if segment.is_physical {
            pass.range(&place, file, segment.range.clone());
        } else {
            pass.unreadable(place, bytes, &"no physical address: another view of the same pages");
        }
    }
}

/// One loadable segment of an ELF core file.
#[derive(Debug, PartialEq, Eq)]
struct Segment {
    /// In the file.
    range: Range<u64>,
    /// The virtual address.
    address: u64,
    /// `/proc/kcore` gives a physical address for memory and kernel text, and all ones for
    /// mappings of single pages (vmalloc, modules), which are terabytes wide and alias memory.
    is_physical: bool,
}

/// The loadable segments of a 64-bit little-endian ELF file (elf(5)).
fn segments(file: &File) -> io::Result<Vec<Segment>> {
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a 64-bit little-endian ELF file",
        ));
    }
    let table_offset = field(&header, 32);
    let count = u16::from_le_bytes([header[56], header[57]]);
    let mut found = Vec::new();
    for index in 0..u64::from(count) {
        let mut entry = [0; 56];
        file.read_exact_at(&mut entry, table_offset.saturating_add(index * 56))?;
        if entry[..4] == PT_LOAD {
            let start = field(&entry, 8);
            found.push(Segment {
                range: start..start.saturating_add(field(&entry, 32)),
                address: field(&entry, 16),
                is_physical: field(&entry, 24) != u64::MAX,
            });
        }
    }
    Ok(found)
}

fn field(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

/// The kernel's memory as an ELF core file, where the kernel is built with it.
const KCORE: &str = "/proc/kcore";

const PT_LOAD: [u8; 4] = [1, 0, 0, 0];

/// Entries that one scan of a directory visits.
const ENTRIES_MAX: usize = 10_000_000;

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn segments_with_and_without_a_physical_address_are_told_apart() {
        // Given an ELF core file with a note, a segment of memory and one of vmalloc,
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[56] = 3;
        for (kind, offset, address, physical, bytes) in
            [(4_u64, 500, 0, 0, 8), (1, 1000, 0xffff, 0x10, 100), (1, 2000, 0xeeee, u64::MAX, 200)]
        {
            for number in [kind, offset, address, physical, bytes, bytes, 0] {
                elf.extend(number.to_le_bytes());
            }
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&elf).unwrap();

        // Then only the two segments are seen, and which of them is memory.
        let memory = Segment { range: 1000..1100, address: 0xffff, is_physical: true };
        let vmalloc = Segment { range: 2000..2200, address: 0xeeee, is_physical: false };
        assert_eq!(segments(&file).unwrap(), [memory, vmalloc]);
    }
}
