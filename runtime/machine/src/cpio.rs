//! The archive that a kernel unpacks first (Documentation/driver-api/early-userspace/buffer-format,
//! format "newc"): no times, root's alone, in the order in which it was written.

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, 0o040_755, (0, 0), &[]);
    }

    /// Adds a file that can be executed, and read by root alone.
    pub fn program(&mut self, path: &str, contents: &[u8]) {
        self.entry(path, 0o100_111, (0, 0), contents);
    }

    /// Adds a file that everybody may read and execute.
    pub fn library(&mut self, path: &str, contents: &[u8]) {
        self.entry(path, 0o100_555, (0, 0), contents);
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, 0o020_600, (major, minor), &[]);
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    /// Header, name with a zero, contents; the last two padded to four bytes from the start.
    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let [size, name_bytes] = [contents.len(), path.len() + 1]
            .map(|length| u32::try_from(length).unwrap_or(u32::MAX));
        let (user, group, links, time, check) = (0, 0, 1, 0, 0);
        let (of_major, of_minor) = (0, 0);
        let fields = [
            self.entries,
            mode,
            user,
            group,
            links,
            time,
            size,
            of_major,
            of_minor,
            device.0,
            device.1,
            name_bytes,
            check,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_trailer_is_last() {
        let mut archive = Archive::default();
        archive.directory("d");
        archive.program("d/f", b"12345");
        archive.device("d/null", 1, 3);
        let bytes = archive.finish();

        let starts: Vec<_> = bytes
            .windows(6)
            .enumerate()
            .filter(|(_, window)| *window == b"070701")
            .map(|(start, _)| start)
            .collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|start| start % 4 == 0));
        assert_eq!(&bytes[starts[1] + 110..starts[1] + 114], b"d/f\0");
        assert_eq!(&bytes[starts[1] + 116..starts[1] + 121], b"12345");
        assert_eq!(&bytes[starts[2] + 78..starts[2] + 94], b"0000000100000003");
        assert!(bytes[starts[3]..].windows(10).any(|window| window == b"TRAILER!!!"));
    }
}
