//! Where an installation keeps its state, and that nobody else can write there.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;

/// The two directories of an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Ledger, notary and claims; lasts.
    pub state_dir: PathBuf,
    /// Agent sockets and public keys; gone with the workload.
    pub runtime_dir: PathBuf,
}

impl Installation {
    pub(crate) fn ledger(&self) -> PathBuf {
        self.state_dir.join("ledger")
    }

    pub(crate) fn notary(&self) -> PathBuf {
        self.state_dir.join("notary")
    }

    pub(crate) fn releases(&self) -> PathBuf {
        self.state_dir.join("releases")
    }

    pub(crate) fn workloads(&self) -> PathBuf {
        self.state_dir.join("workloads")
    }

    /// Makes every directory that is missing and checks those that are there.
    pub(crate) fn prepare(&self) -> Result<(), DirectoryError> {
        for directory in
            [&self.state_dir, &self.runtime_dir, &self.ledger(), &self.notary(), &self.workloads()]
        {
            prepare_private(directory)?;
        }
        Ok(())
    }
}

/// Makes a directory for its owner alone, or checks that the one there is, and opens it.
pub(crate) fn prepare_private(path: &Path) -> Result<OwnedFd, DirectoryError> {
    let fail = |step| move |source| DirectoryError::Access { path: path.to_owned(), step, source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail("made"))?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let directory = rustix::fs::open(path, flags, Mode::empty())
        .map_err(io::Error::from)
        .map_err(fail("opened"))?;
    let directory = File::from(directory);
    let metadata = directory.metadata().map_err(fail("examined"))?;
    if metadata.uid() != geteuid().as_raw() {
        return Err(DirectoryError::Owner { path: path.to_owned(), found: metadata.uid() });
    }
    match metadata.mode() & 0o7777 & !0o700 {
        0 => Ok(directory.into()),
        _ => Err(DirectoryError::Mode { path: path.to_owned(), found: metadata.mode() & 0o7777 }),
    }
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// It could not be made, or is not a directory (a symbolic link is not followed).
    #[error("directory {} could not be {step}", path.display())]
    Access {
        /// The directory.
        path: PathBuf,
        /// `made`, `opened` or `examined`.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is another user's.
    #[error("directory {} belongs to user {found}", path.display())]
    Owner {
        /// The directory.
        path: PathBuf,
        /// The owner's user id.
        found: u32,
    },
    /// Others can get at it.
    #[error("directory {} has mode {found:04o}, and 0700 is needed", path.display())]
    Mode {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        found: u32,
    },
}

impl DirectoryError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Access { .. } => "directory.access",
            Self::Owner { .. } => "directory.owner",
            Self::Mode { .. } => "directory.mode",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_missing_directory_is_made_for_its_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");

        prepare_private(&path).unwrap();

        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        prepare_private(&path).unwrap();
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused_with_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o750)).unwrap();

        let refused = prepare_private(directory.path()).unwrap_err();

        assert!(matches!(refused, DirectoryError::Mode { found: 0o750, .. }), "{refused}");
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let (target, link) = (parent.path().join("target"), parent.path().join("link"));
        fs::create_dir(&target).unwrap();
        symlink(&target, &link).unwrap();

        let refused = prepare_private(&link).unwrap_err();

        assert!(matches!(refused, DirectoryError::Access { step: "opened", .. }), "{refused}");
    }
}
