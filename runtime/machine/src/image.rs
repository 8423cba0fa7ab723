//! The image: a kernel, an archive with two programs, a command line, and a list of their digests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use evanesce_protocol::Digest;
use serde::{Deserialize, Serialize};

use crate::cpio::Archive;
use crate::modules::Module;

/// Reads the libraries that programs of this host are linked with, from where its loader finds them.
///
/// # Errors
///
/// [`ImageError::Library`] where one of them is nowhere.
pub fn libraries_of_host() -> Result<Vec<(String, Vec<u8>)>, ImageError> {
    let find = |name: &'static str| {
        let found = LIBRARY_FOLDERS.iter().find_map(|folder| {
            let path = format!("{folder}/{name}");
            fs::read(format!("/{path}")).ok().map(|bytes| (path, bytes))
        });
        found.ok_or(ImageError::Library { name })
    };
    let loader =
        fs::read(format!("/{LOADER}")).map_err(|_| ImageError::Library { name: LOADER })?;
    let mut libraries = vec![(LOADER.to_owned(), loader)];
    for name in LIBRARIES {
        libraries.push(find(name)?);
    }
    Ok(libraries)
}

/// What an image is made of.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// The kernel, as it is booted (`bzImage`).
    pub kernel: &'a [u8],
    /// The machine's first program.
    pub init: &'a [u8],
    /// The worker.
    pub worker: &'a [u8],
    /// What asks the platform for evidence.
    pub attester: &'a [u8],
    /// What both programs are linked with, and the loader that does it: each by the path that it
    /// has in the machine, without a slash before it.
    pub libraries: &'a [(String, Vec<u8>)],
    /// The kernel's modules that are loaded, in their order: what evidence is given through. A driver
    /// whose device is not there is passed over.
    pub modules: &'a [Module],
}

impl Parts<'_> {
    /// Writes an image into `folder`, which is made where it is not there. The same parts give the
    /// same bytes.
    ///
    /// # Errors
    ///
    /// [`ImageError::Kernel`] where the kernel is none, [`ImageError::Write`] where a file cannot be
    /// written.
    pub fn build(&self, folder: &Path) -> Result<Image, ImageError> {
        if self.kernel.get(KERNEL_MAGIC_AT..KERNEL_MAGIC_AT + 4) != Some(KERNEL_MAGIC) {
            return Err(ImageError::Kernel);
        }
        let initrd = self.initrd();
        let manifest = Manifest {
            v: VERSION,
            kernel: Digest::of(self.kernel),
            initrd: Digest::of(&initrd),
            command_line: COMMAND_LINE.to_owned(),
            init: Digest::of(self.init),
            worker: Digest::of(self.worker),
            attester: Digest::of(self.attester),
            libraries: self
                .libraries
                .iter()
                .map(|(path, bytes)| (path.clone(), Digest::of(bytes)))
                .collect(),
            modules: self
                .modules
                .iter()
                .map(|module| (module.name.clone(), Digest::of(&module.bytes)))
                .collect(),
        };
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            fs::write(&path, bytes).map_err(|source| ImageError::Write { path, source })
        };
        fs::create_dir_all(folder)
            .map_err(|source| ImageError::Write { path: folder.to_owned(), source })?;
        write(KERNEL, self.kernel)?;
        write(INITRD, &initrd)?;
        write(MANIFEST, manifest.to_text().as_bytes())?;
        Ok(Image { folder: folder.to_owned(), manifest })
    }

    /// The archive that the kernel unpacks first: all that is in the machine besides the kernel.
    fn initrd(&self) -> Vec<u8> {
        let mut archive = Archive::default();
        for directory in ["dev", "proc", "run", "sys"] {
            archive.directory(directory);
        }
        // What a kernel gives its first program as standard input, output and error.
        archive.device("dev/console", 5, 1);
        archive.device("dev/null", 1, 3);
        let mut folders = BTreeSet::new();
        let mut libraries: Vec<_> = self.libraries.iter().collect();
        libraries.sort();
        for (path, bytes) in libraries {
            let above: Vec<_> = path.match_indices('/').map(|(end, _)| &path[..end]).collect();
            for folder in above {
                if folders.insert(folder) {
                    archive.directory(folder);
                }
            }
            archive.library(path, bytes);
        }
        archive.directory("modules");
        for (index, module) in self.modules.iter().enumerate() {
            // They are loaded in the order of these names.
            archive.library(&format!("modules/{index:02}-{}.ko", module.name), &module.bytes);
        }
        archive.program("init", self.init);
        archive.program("worker", self.worker);
        archive.program("attester", self.attester);
        archive.finish()
    }
}

impl std::fmt::Debug for Parts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// What is in an image, by digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this list: 1.
    pub v: u32,
    /// SHA-256 of the kernel.
    pub kernel: Digest,
    /// SHA-256 of the archive that it unpacks.
    pub initrd: Digest,
    /// The kernel's command line.
    pub command_line: String,
    /// SHA-256 of the first program.
    pub init: Digest,
    /// SHA-256 of the worker.
    pub worker: Digest,
    /// SHA-256 of what asks the platform for evidence.
    pub attester: Digest,
    /// SHA-256 of each library, by its path in the machine.
    pub libraries: BTreeMap<String, Digest>,
    /// Name and SHA-256 of each module, in the order in which they are loaded.
    pub modules: Vec<(String, Digest)>,
}

impl Manifest {
    /// The list as it stands in an image: the image's digest is that of this text.
    pub fn to_text(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("a manifest is plain data");
        text + "\n"
    }

    /// The image's digest.
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_text().as_bytes())
    }
}

/// An image whose files are what its list says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    folder: PathBuf,
    manifest: Manifest,
}

impl Image {
    /// Reads an image, and compares each of its files with its digest.
    ///
    /// # Errors
    ///
    /// [`ImageError`] where a file cannot be read or is not the listed one.
    pub fn open(folder: &Path) -> Result<Self, ImageError> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|source| ImageError::Read { path, source })
        };
        let text = read(MANIFEST)?;
        let malformed = || ImageError::Manifest { path: folder.join(MANIFEST) };
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|_| malformed())?;
        // Its digest is that of its text, so there is one text for one list.
        if manifest.v != VERSION || manifest.to_text().as_bytes() != text {
            return Err(malformed());
        }
        for (name, expected) in [(KERNEL, manifest.kernel), (INITRD, manifest.initrd)] {
            let found = Digest::of(&read(name)?);
            if found != expected {
                return Err(ImageError::Changed { path: folder.join(name), expected, found });
            }
        }
        Ok(Self { folder: folder.to_owned(), manifest })
    }

    /// What is in it.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The kernel's file.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join(KERNEL)
    }

    /// The archive's file.
    pub fn initrd(&self) -> PathBuf {
        self.folder.join(INITRD)
    }
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A file cannot be written.
    #[error("{} cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What should be a kernel is none.
    #[error("the kernel is not one that a machine of this kind boots (bzImage)")]
    Kernel,
    /// What should be a module of a kernel is none.
    #[error("{} is no module of a kernel (.ko, or .ko.xz)", path.display())]
    Module {
        /// The file.
        path: PathBuf,
    },
    /// A module is not where it should be.
    #[error("there is no module {name} in {}", folder.display())]
    NoModule {
        /// Where it was looked for.
        folder: PathBuf,
        /// Its name.
        name: String,
    },
    /// A library that the programs need is nowhere on this host.
    #[error("library {name} is not where this host's loader looks for it")]
    Library {
        /// Its name.
        name: &'static str,
    },
    /// The list is none.
    #[error("{} is not the list of an image", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
    },
    /// A file is not the one that the list names.
    #[error("{} has digest {found}, and the image lists {expected}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// The digest in the list.
        expected: Digest,
        /// The file's.
        found: Digest,
    },
}

impl ImageError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Write { .. } => "image.write",
            Self::Read { .. } => "image.read",
            Self::Kernel => "image.kernel",
            Self::Module { .. } => "image.module",
            Self::NoModule { .. } => "image.no-module",
            Self::Library { .. } => "image.library",
            Self::Manifest { .. } => "image.manifest",
            Self::Changed { .. } => "image.changed",
        }
    }
}

/// The kernel's command line: part of what is measured, so it is the same for every image of one
/// version. Pages are cleared when they are freed, secret memory can be had, and a kernel that
/// panics ends the machine.
pub const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1 init_on_free=1 \
    init_on_alloc=1 secretmem.enable=1 random.trust_cpu=on rdinit=/init";

const KERNEL: &str = "kernel";
const INITRD: &str = "initrd";
const MANIFEST: &str = "image.json";

const VERSION: u32 = 1;

/// The loader of programs for x86-64, by the name that is written into each of them.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// What worker and first program are linked with.
const LIBRARIES: &[&str] = &["libc.so.6", "libgcc_s.so.1"];

/// Where loaders look without being told: Debian's folders, then those of most others.
const LIBRARY_FOLDERS: &[&str] =
    &["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64"];

/// Documentation/arch/x86/boot.rst: `HdrS` at 0x202.
const KERNEL_MAGIC: &[u8] = b"HdrS";
const KERNEL_MAGIC_AT: usize = 0x202;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_parts_make_the_same_bytes() {
        let [first, second] = [(), ()].map(|()| tempfile::tempdir().unwrap());
        let kernel = kernel();
        let parts = parts(&kernel);

        let images = [&first, &second].map(|folder| parts.build(folder.path()).unwrap());

        assert_eq!(images[0].manifest().digest(), images[1].manifest().digest());
        for name in [KERNEL, INITRD, MANIFEST] {
            let [one, other] = [&first, &second].map(|at| fs::read(at.path().join(name)).unwrap());
            assert_eq!(one, other, "{name}");
        }
    }

    #[test]
    fn every_part_is_in_the_digest() {
        let folder = tempfile::tempdir().unwrap();
        let digest = |parts: Parts<'_>| parts.build(folder.path()).unwrap().manifest().digest();
        let (kernel, mut other) = (kernel(), kernel());
        other.push(1);
        let modules = ["a", "b"].map(|name| Module { name: name.into(), bytes: b"m".to_vec() });
        let swapped = [modules[1].clone(), modules[0].clone()];

        let digests = [
            digest(parts(&kernel)),
            digest(parts(&other)),
            digest(Parts { init: b"I", ..parts(&kernel) }),
            digest(Parts { worker: b"W", ..parts(&kernel) }),
            digest(Parts { attester: b"A", ..parts(&kernel) }),
            digest(Parts { libraries: &[("lib/a/b".into(), b"b".to_vec())], ..parts(&kernel) }),
            digest(Parts { modules: &modules, ..parts(&kernel) }),
            digest(Parts { modules: &swapped, ..parts(&kernel) }),
        ];

        let distinct: BTreeSet<_> = digests.iter().map(ToString::to_string).collect();
        assert_eq!(distinct.len(), digests.len());
    }

    #[test]
    fn an_image_with_one_other_byte_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = kernel();
        let parts = parts(&kernel);
        let built = parts.build(folder.path()).unwrap();
        assert_eq!(Image::open(folder.path()).unwrap(), built);

        for (name, code) in
            [(KERNEL, "image.changed"), (INITRD, "image.changed"), (MANIFEST, "image.manifest")]
        {
            let path = folder.path().join(name);
            let whole = fs::read(&path).unwrap();
            let mut changed = whole.clone();
            changed.push(b' ');
            fs::write(&path, changed).unwrap();
            assert_eq!(Image::open(folder.path()).unwrap_err().code(), code, "{name}");
            fs::write(&path, whole).unwrap();
        }
        fs::remove_file(folder.path().join(INITRD)).unwrap();
        assert_eq!(Image::open(folder.path()).unwrap_err().code(), "image.read");
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let built = parts(b"MZ").build(folder.path());

        assert_eq!(built.unwrap_err().code(), "image.kernel");
    }

    fn parts(kernel: &[u8]) -> Parts<'_> {
        Parts {
            kernel,
            init: b"init",
            worker: b"worker",
            attester: b"attester",
            libraries: &[],
            modules: &[],
        }
    }

    fn kernel() -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        bytes[KERNEL_MAGIC_AT..KERNEL_MAGIC_AT + 4].copy_from_slice(KERNEL_MAGIC);
        bytes
    }
}
