//! configfs-tsm as the kernel has it, in user space (FUSE), with a machine behind it that signs.
//!
//! A directory that is made has its attributes at once and is removed although they are there; what
//! is written to `inblob` counts from the close on; `outblob` before that is EINVAL.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use tempfile::TempDir;

/// Signs 64 bytes: gives the report.
pub(crate) type Firmware = Box<dyn Fn(&[u8; 64]) -> Vec<u8> + Send + Sync>;

/// The directory, mounted as long as this lives.
pub(crate) struct TsmFs {
    _mounted: BackgroundSession,
    pub(crate) root: TempDir,
}

impl TsmFs {
    /// Mounts it, where FUSE can be had; says so where not. A machine without certificates of its own
    /// (TDX) has neither `auxblob` nor `privlevel_floor`.
    #[expect(clippy::print_stderr, reason = "a test that shows nothing has to say so")]
    pub(crate) fn mount(
        provider: &'static str,
        auxblob: Option<Vec<u8>>,
        firmware: Firmware,
    ) -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        let tsm = Tsm { state: Mutex::default(), provider, auxblob, firmware };
        match fuser::spawn_mount(tsm, root.path(), &Config::default()) {
            Ok(mounted) => Some(Self { _mounted: mounted, root }),
            Err(error) => {
                eprintln!("nothing shown: FUSE cannot be mounted here: {error}");
                None
            }
        }
    }
}

struct Tsm {
    state: Mutex<State>,
    provider: &'static str,
    auxblob: Option<Vec<u8>>,
    firmware: Firmware,
}

#[derive(Default)]
struct State {
    made: u64,
    requests: BTreeMap<u64, Report>,
}

#[derive(Default)]
struct Report {
    name: String,
    /// Written, and not closed yet.
    pending: Vec<u8>,
    /// Made once for what was written, however it is read.
    outblob: Option<Vec<u8>>,
    generation: u64,
}

/// Attributes by their number; a request's directory is number 0.
const ATTRIBUTES: [&str; 6] =
    ["provider", "generation", "privlevel_floor", "inblob", "outblob", "auxblob"];
const INBLOB: u64 = 4;

/// Numbers of files: request, and what in it.
const STRIDE: u64 = 16;

impl Tsm {
    fn content(&self, report: &Report, attribute: u64) -> Result<Vec<u8>, Errno> {
        match ATTRIBUTES[usize::try_from(attribute - 1).unwrap()] {
            "provider" => Ok(format!("{}\n", self.provider).into_bytes()),
            "generation" => Ok(format!("{}\n", report.generation).into_bytes()),
            "privlevel_floor" => Ok(b"0\n".to_vec()),
            "outblob" => report.outblob.clone().ok_or(Errno::EINVAL),
            "auxblob" => self.auxblob.clone().ok_or(Errno::ENOENT),
            _ => Err(Errno::EACCES),
        }
    }

    fn has(&self, attribute: &str) -> bool {
        self.auxblob.is_some() || !["auxblob", "privlevel_floor"].contains(&attribute)
    }
}

fn attr(ino: u64, kind: FileType, perm: u16) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        blksize: 4096,
    }
}

fn attr_of(ino: u64) -> FileAttr {
    match ino % STRIDE {
        _ if ino == INodeNo::ROOT.0 => attr(ino, FileType::Directory, 0o755),
        0 => attr(ino, FileType::Directory, 0o755),
        INBLOB => attr(ino, FileType::RegularFile, 0o200),
        _ => attr(ino, FileType::RegularFile, 0o444),
    }
}

impl Filesystem for Tsm {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.state.lock().unwrap();
        let found = match parent {
            INodeNo::ROOT => state
                .requests
                .iter()
                .find(|(_, report)| name == report.name.as_str())
                .map(|(number, _)| number * STRIDE),
            INodeNo(directory) => ATTRIBUTES
                .iter()
                .position(|attribute| name == *attribute && self.has(attribute))
                .map(|place| directory + 1 + u64::try_from(place).unwrap()),
        };
        match found {
            Some(ino) => reply.entry(&Duration::ZERO, &attr_of(ino), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &attr_of(ino.0));
    }

    fn mkdir(&self, _: &Request, _: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let mut state = self.state.lock().unwrap();
        state.made += 1;
        let number = state.made;
        let name = name.to_str().unwrap().to_owned();
        state.requests.insert(number, Report { name, ..Report::default() });
        reply.entry(&Duration::ZERO, &attr_of(number * STRIDE), Generation(0));
    }

    fn rmdir(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.state.lock().unwrap();
        state.requests.retain(|_, report| name != report.name.as_str());
        reply.ok();
    }

    /// Names of requests that are still there.
    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let state = self.state.lock().unwrap();
        let places = (1_u64..).zip(&state.requests);
        for (place, (number, report)) in places.filter(|(place, _)| *place > offset) {
            let ino = INodeNo(number * STRIDE);
            if reply.add(ino, place, FileType::Directory, &report.name) {
                break;
            }
        }
        reply.ok();
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // What is read has no length before it is read.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.state.lock().unwrap();
        let report = state.requests.get(&(ino.0 / STRIDE)).ok_or(Errno::ENOENT);
        match report.and_then(|report| self.content(report, ino.0 % STRIDE)) {
            Ok(content) => {
                let start = usize::try_from(offset).unwrap().min(content.len());
                let end = (start + usize::try_from(size).unwrap()).min(content.len());
                reply.data(&content[start..end]);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.state.lock().unwrap();
        match state.requests.get_mut(&(ino.0 / STRIDE)) {
            Some(report) if ino.0 % STRIDE == INBLOB && data.len() <= 64 => {
                report.pending = data.to_vec();
                reply.written(u32::try_from(data.len()).unwrap());
            }
            _ => reply.error(Errno::EFBIG),
        }
    }

    /// The moment of `close(2)`: what was written counts from here on.
    fn flush(&self, _: &Request, ino: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        let mut state = self.state.lock().unwrap();
        if let Some(report) = state.requests.get_mut(&(ino.0 / STRIDE))
            && !report.pending.is_empty()
        {
            let inblob = std::mem::take(&mut report.pending);
            report.outblob = inblob.as_slice().try_into().ok().map(|data| (self.firmware)(data));
            report.generation += 1;
        }
        reply.ok();
    }
}
