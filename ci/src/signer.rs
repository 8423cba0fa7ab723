//! `cargo xtask signer`: builds the guest, or checks that the committed module is what its source
//! builds to.
//!
//! Three files are committed in `wasm-signer/`: `signer.wasm`, its digest `signer.sha256` (for
//! `sha256sum --check`), and `signer.toolchain`, which names the compiler and the linker. The same
//! two give the same bytes from any directory; other ones may not, so they are not compared.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::programs::{ProgramError, output, repository};

/// Build the signer, or check the committed one against its source
///
/// Needs a compiler of Rust 1.96 or newer with its library's source: Debian's `rustc-web`,
/// `cargo-web` and `rust-web-src`, or rustup's component `rust-src`.
#[derive(Debug, clap::Args)]
pub(crate) struct SignerArgs {
    /// Write nothing; compare with the committed module where the recorded toolchain is installed
    #[arg(long)]
    check: bool,

    /// The compiler, beside which `cargo` is expected
    #[arg(long, value_name = "PATH", default_value = "/usr/bin/rustc")]
    rustc: PathBuf,
}

pub(crate) fn run(args: &SignerArgs) -> Result<SignerReport, SignerError> {
    let folder = repository().join("wasm-signer");
    let recorded = Recorded::in_folder(&folder);
    let toolchain = match Toolchain::find(&args.rustc) {
        Ok(toolchain) => toolchain,
        Err(missing) if args.check => return Ok(SignerReport::NotChecked(missing.to_string())),
        Err(missing) => return Err(missing),
    };
    let versions = toolchain.versions()?;
    if args.check && read(&recorded.toolchain)? != versions.as_bytes() {
        let found = versions.replace('\n', "; ");
        return Ok(SignerReport::NotChecked(format!(
            "this toolchain is not the recorded: {found}"
        )));
    }

    let built = toolchain.build()?;
    let sha256 = hex::encode(Sha256::digest(&built));
    let digest_line = format!("{sha256}  signer.wasm\n");
    if args.check {
        if read(&recorded.module)? != built || read(&recorded.digest)? != digest_line.as_bytes() {
            return Err(SignerError::Differs { built: sha256 });
        }
        return Ok(SignerReport::Same { sha256 });
    }
    write(&recorded.module, &built)?;
    write(&recorded.digest, digest_line.as_bytes())?;
    write(&recorded.toolchain, versions.as_bytes())?;
    Ok(SignerReport::Built { sha256, bytes: built.len() })
}

/// What was found or made.
#[derive(Debug)]
pub(crate) enum SignerReport {
    /// The module was built and written.
    Built { sha256: String, bytes: usize },
    /// The committed module is what its source builds to.
    Same { sha256: String },
    /// Nothing was compared, and why.
    NotChecked(String),
}

impl fmt::Display for SignerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Built { sha256, bytes } => write!(f, "signer.wasm: {bytes} bytes, {sha256}"),
            Self::Same { sha256 } => {
                write!(f, "signer.wasm is what its source builds to: {sha256}")
            }
            Self::NotChecked(why) => write!(f, "signer.wasm was not rebuilt: {why}"),
        }
    }
}

/// Why the signer was not built, or is not the committed one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SignerError {
    #[error("{} is no compiler that can be started", path.display())]
    NoCompiler {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no source of the standard library in {}", path.display())]
    NoLibrarySource { path: PathBuf },
    #[error("no rust-lld in the sysroots of the compiler and of rustup's toolchain")]
    NoLinker,
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("could not read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the committed signer.wasm is not what its source builds to ({built}): run `cargo xtask signer` and commit what it writes"
    )]
    Differs { built: String },
}

/// The committed files.
struct Recorded {
    module: PathBuf,
    digest: PathBuf,
    toolchain: PathBuf,
}

impl Recorded {
    fn in_folder(folder: &Path) -> Self {
        Self {
            module: folder.join("signer.wasm"),
            digest: folder.join("signer.sha256"),
            toolchain: folder.join("signer.toolchain"),
        }
    }
}

/// A compiler, its cargo, and a linker for WebAssembly.
struct Toolchain {
    rustc: PathBuf,
    cargo: PathBuf,
    linker: PathBuf,
}

impl Toolchain {
    /// Takes the compiler as named. The linker is its own or, since Debian's has none, the one of
    /// the `rustc` that runs this.
    fn find(rustc: &Path) -> Result<Self, SignerError> {
        let sysroot = sysroot(rustc.as_os_str()).map_err(|error| match error {
            ProgramError::Start { source, .. } => {
                SignerError::NoCompiler { path: rustc.to_owned(), source }
            }
            other => other.into(),
        })?;
        let library = sysroot.join("lib/rustlib/src/rust/library");
        if !library.join("core").exists() {
            return Err(SignerError::NoLibrarySource { path: library });
        }
        let linker = [Some(sysroot), sysroot_of_path()]
            .into_iter()
            .flatten()
            .map(|sysroot| sysroot.join(LINKER))
            .find(|linker| linker.exists())
            .ok_or(SignerError::NoLinker)?;
        Ok(Self { rustc: rustc.to_owned(), cargo: rustc.with_file_name("cargo"), linker })
    }

    /// What the bytes of the module depend on, one line each.
    fn versions(&self) -> Result<String, ProgramError> {
        let rustc = output(Command::new(&self.rustc).arg("--version"))?;
        let linker = output(Command::new(&self.linker).args(["-flavor", "wasm", "--version"]))?;
        // Of the linker's line, the commit and the directory it was built in say no more.
        let linker = linker.split(" (").next().unwrap_or_default().trim();
        Ok(format!("{}\n{linker}\n", rustc.trim()))
    }

    /// The module, from the workspace's own lock file.
    fn build(&self) -> Result<Vec<u8>, SignerError> {
        let target = repository().join("target/signer-build");
        let mut cargo = Command::new(&self.cargo);
        for (name, _) in std::env::vars_os().filter(|(name, _)| steers_a_build(name)) {
            cargo.env_remove(name);
        }
        cargo
            .current_dir(repository())
            .args(["rustc", "--locked", "--package", "evanesce-signer", "--lib"])
            .args(["--crate-type", "cdylib", "--profile", "signer", "--target", TARGET])
            .args(["-Zbuild-std=core,compiler_builtins"])
            .args(["-Zbuild-std-features=compiler-builtins-mem"])
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1") // for `-Zbuild-std` and the wide-arithmetic feature
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags())
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", &self.linker)
            .env("CARGO_TARGET_DIR", &target);
        output(&mut cargo)?;
        read(&target.join(TARGET).join("signer/evanesce_signer.wasm"))
    }
}

/// Flags as cargo takes them, one unit separator between two.
fn rustflags() -> String {
    let home = std::env::home_dir().unwrap_or_default();
    let [own, home] = [repository(), &home].map(|path| path.display().to_string());
    [
        // 64-bit limbs, and the Wasm proposals that make them as fast as native ones.
        "--cfg=curve25519_dalek_bits=\"64\"",
        "-Ctarget-feature=+wide-arithmetic,+simd128",
        // Field arithmetic inlined into the point formulas: 5 % of a signature.
        "-Cllvm-args=-inline-threshold=300",
        // `abi::STACK_BYTES` and `abi::MEMORY_BYTES`; tests compare the module with them.
        "-Clink-arg=-zstack-size=4096",
        "-Clink-arg=--initial-memory=131072",
        "-Clink-arg=--max-memory=131072",
        // No path of this machine in the module.
        &format!("--remap-path-prefix={own}=/evanesce"),
        &format!("--remap-path-prefix={home}=/home"),
    ]
    .join("\u{1f}")
}

/// Whether a variable would change the build; what reaches a registry stays.
fn steers_a_build(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let steers = ["RUSTC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "CARGO_ENCODED_RUSTFLAGS"];
    let families = ["RUSTC_", "CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_", "CARGO_UNSTABLE_"];
    steers.contains(&&*name) || families.iter().any(|family| name.starts_with(family))
}

fn sysroot(rustc: &OsStr) -> Result<PathBuf, ProgramError> {
    let path = output(Command::new(rustc).args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(path.trim()))
}

/// The sysroot of the `rustc` in PATH, if there is one.
fn sysroot_of_path() -> Option<PathBuf> {
    sysroot(OsStr::new("rustc")).ok()
}

fn read(path: &Path) -> Result<Vec<u8>, SignerError> {
    fs::read(path).map_err(|source| SignerError::Read { path: path.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), SignerError> {
    fs::write(path, bytes).map_err(|source| SignerError::Write { path: path.to_owned(), source })
}

const TARGET: &str = "wasm32-unknown-unknown";

/// Where a sysroot has LLVM's linker.
const LINKER: &str = "lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld";
