//! Finding, judging and reading configuration files.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::configuration::{CONFIGURATION_BYTES_MAX, ConfigFile, ConfigurationError};
use crate::environment::Environment;

/// What was found of the files that are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What they say, the weakest first.
    pub files: Vec<ConfigFile>,
    /// Every file that was looked for, in the same order, and whether it is there.
    pub looked_for: Vec<(PathBuf, bool)>,
}

/// Reads the file of the system, the user's, and the one that was `named`, which has to be there.
///
/// # Errors
///
/// [`ConfigurationError`]: a file that is there counts, so one that cannot be read or trusted ends
/// the command.
pub fn all(environment: &Environment, named: Option<&Path>) -> Result<Found, ConfigurationError> {
    let mut found = Found::default();
    for path in [Some(PathBuf::from(SYSTEM)), of_user(environment)].into_iter().flatten() {
        let file = file(&path, environment.uid)?;
        found.looked_for.push((path, file.is_some()));
        found.files.extend(file);
    }
    if let Some(path) = named {
        let missing = || ErrorKind::NotFound.into();
        let file = file(path, environment.uid)?
            .ok_or_else(|| ConfigurationError::Read { path: path.to_owned(), source: missing() })?;
        found.looked_for.push((path.to_owned(), true));
        found.files.push(file);
    }
    Ok(found)
}

/// `XDG_CONFIG_HOME/evanesce/config.toml`, else below `~/.config`.
fn of_user(environment: &Environment) -> Option<PathBuf> {
    let home = || environment.home.as_ref().map(|home| home.join(".config"));
    let config_home = environment.xdg_config_home.clone().or_else(home)?;
    Some(config_home.join("evanesce/config.toml"))
}

/// Reads one file; `None` where there is none.
fn file(path: &Path, uid: u32) -> Result<Option<ConfigFile>, ConfigurationError> {
    let failed = |source| ConfigurationError::Read { path: path.to_owned(), source };
    // From here on no link is followed: what is judged is what is read.
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let judge = |open: &Path, metadata: &Metadata| match wrong_with(metadata, uid) {
        Some(wrong) => Err(ConfigurationError::OpenToOthers {
            path: path.to_owned(),
            open: open.to_owned(),
            wrong,
        }),
        None => Ok(()),
    };
    for directory in real.ancestors().skip(1) {
        judge(directory, &directory.metadata().map_err(failed)?)?;
    }
    // Not blocking: a pipe without a writer must not hold the command.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(&real, flags, Mode::empty()).map_err(io::Error::from);
    let file = File::from(file.map_err(failed)?);
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(ConfigurationError::NotAFile { path: path.to_owned() });
    }
    judge(&real, &metadata)?;

    let mut bytes = Vec::new();
    file.take(CONFIGURATION_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|found| found > CONFIGURATION_BYTES_MAX) {
        return Err(ConfigurationError::TooLong { path: path.to_owned() });
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| not_text(path, &bytes, &error))?;
    ConfigFile::parse(path, text).map(Some)
}

fn not_text(path: &Path, bytes: &[u8], error: &std::str::Utf8Error) -> ConfigurationError {
    let before = &bytes[..error.valid_up_to()];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.rsplit(|byte| *byte == b'\n').next().map_or(0, <[u8]>::len) + 1;
    let message = "a byte that is not UTF-8".to_owned();
    ConfigurationError::Parse { path: path.to_owned(), line, column, message }
}

/// Why what a file says, or which file a directory has, is not for this user and root alone to
/// decide. A sticky directory is no danger to a file of ours.
fn wrong_with(metadata: &Metadata, uid: u32) -> Option<String> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != ROOT && owner != uid {
        return Some(format!("belongs to user {owner}"));
    }
    let sticky = metadata.is_dir() && mode & STICKY != 0;
    (mode & OTHERS_WRITE != 0 && !sticky).then(|| format!("has mode {mode:04o}"))
}

/// The file of the system.
const SYSTEM: &str = "/etc/evanesce/config.toml";

const ROOT: u32 = 0;

/// Only the owner of a file may remove or rename it there (`inode(7)`).
const STICKY: u32 = 0o1000;

/// The write bits of group and others.
const OTHERS_WRITE: u32 = 0o022;

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use tempfile::TempDir;

    use super::*;
    use crate::errors::Coded as _;

    fn uid() -> u32 {
        rustix::process::getuid().as_raw()
    }

    /// A file of ours with this text, in a directory of ours.
    fn file_with(text: &str) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        (directory, path)
    }

    fn code(path: &Path) -> &'static str {
        file(path, uid()).unwrap_err().code()
    }

    #[test]
    fn a_file_that_others_can_write_or_that_is_in_a_directory_they_can_write_is_refused() {
        let (directory, path) = file_with("profile = 'strict'\n");
        file(&path, uid()).unwrap().unwrap();

        for mode in [0o664, 0o646, 0o622] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(code(&path), "configuration.open-to-others", "{mode:o}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        assert_eq!(code(&path), "configuration.open-to-others");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o1777)).unwrap();
        file(&path, uid()).unwrap().unwrap();
    }

    #[test]
    fn a_file_of_another_user_is_refused_and_one_of_root_is_not() {
        let (_directory, path) = file_with("");
        let stranger = 4_242_424;

        let refused = file(&path, stranger);

        match uid() {
            ROOT => assert!(refused.unwrap().is_some()),
            _ => assert_eq!(refused.unwrap_err().code(), "configuration.open-to-others"),
        }
        let metadata = path.metadata().unwrap();
        assert_eq!(wrong_with(&metadata, metadata.uid()), None);
    }

    #[test]
    fn a_link_is_judged_by_where_it_leads() {
        let (directory, path) = file_with("profile = 'strict'\n");
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        file(&link, uid()).unwrap().unwrap();

        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();

        assert_eq!(code(&link), "configuration.open-to-others");
    }

    #[test]
    fn what_is_no_file_or_too_long_or_no_text_is_refused_at_once() {
        let (directory, path) = file_with("ttl = '\u{e4}'\n");
        fs::write(&path, b"# one\nprofile = '\xff'\n").unwrap();
        let error = file(&path, uid()).unwrap_err();
        assert_eq!(error.code(), "configuration.parse");
        assert!(
            error.to_string().ends_with("line 2, column 12: a byte that is not UTF-8"),
            "{error}"
        );

        let long = usize::try_from(CONFIGURATION_BYTES_MAX).unwrap() + 1;
        fs::write(&path, "#".repeat(long)).unwrap();
        assert_eq!(code(&path), "configuration.too-long");
        fs::write(&path, "#".repeat(long - 1)).unwrap();
        file(&path, uid()).unwrap().unwrap();

        assert_eq!(code(directory.path()), "configuration.not-a-file");
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert_eq!(code(&pipe), "configuration.not-a-file");
    }

    #[test]
    fn a_file_that_is_not_there_says_nothing_unless_it_was_named() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().to_owned();
        let environment = Environment { uid: uid(), home: Some(home), ..Environment::default() };
        let own = directory.path().join(".config/evanesce/config.toml");
        let missing = directory.path().join("missing.toml");

        let found = all(&environment, None).unwrap();
        assert_eq!(found.looked_for.last(), Some(&(own.clone(), false)));
        let error = all(&environment, Some(&missing)).unwrap_err();
        assert_eq!(error.code(), "configuration.read");

        fs::create_dir_all(own.parent().unwrap()).unwrap();
        fs::write(&own, "").unwrap();
        assert_eq!(all(&environment, None).unwrap().looked_for.last(), Some(&(own, true)));
    }
}
