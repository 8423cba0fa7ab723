//! The kernel's modules that came with the machine's image: what platforms give evidence through.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::system::finit_module;

use crate::{Failed, mount_one, step, step_io};

/// Loads them in the order of their names, then mounts configfs where there is one by now.
pub(crate) fn load() -> Result<(), Failed> {
    for path in in_order(Path::new(MODULES)).map_err(step_io("list the modules"))? {
        let file = File::open(path).map_err(step_io("open a module"))?;
        match finit_module(file, NO_PARAMETERS, 0) {
            // An image fits several platforms: a driver without its device does not stay.
            Ok(()) | Err(Errno::NODEV) => {}
            Err(errno) => return Err(step("load a module")(errno)),
        }
    }
    match Path::new(CONFIGFS).is_dir() {
        true => mount_one("configfs", CONFIGFS),
        false => Ok(()),
    }
}

/// What is in a folder, sorted; nothing where there is none.
fn in_order(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

const MODULES: &str = "/modules";

/// The kernel makes this folder with configfs.
const CONFIGFS: &str = "/sys/kernel/config";

const NO_PARAMETERS: &CStr = c"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_in_the_order_of_their_names_and_none_are_no_error() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["02-b.ko", "00-c.ko", "01-a.ko"] {
            fs::write(folder.path().join(name), "").unwrap();
        }

        let found = in_order(folder.path()).unwrap();

        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap()).collect();
        assert_eq!(names, ["00-c.ko", "01-a.ko", "02-b.ko"]);
        assert_eq!(in_order(&folder.path().join("none")).unwrap(), Vec::<PathBuf>::new());
    }
}
