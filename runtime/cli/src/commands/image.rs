//! `image`: make the image of a worker's machine, and say what is in one.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use evanesce_launcher::machine::build_image;
use evanesce_launcher::machine::parts::{Firmware, Image, KernelModules, Module, SnpMeasurement};
use evanesce_protocol::Digest;
use serde::Serialize;

use crate::errors::{Coded, CommandError};
use crate::ui::Report;

/// Make the image of a machine for a worker, or say what is in one
#[derive(Debug, clap::Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    Build(BuildArgs),
    Show(ShowArgs),
}

/// Make an image from a kernel and this program's own worker
///
/// The same kernel, modules, libraries and evanesce give the same bytes, wherever and whenever. The
/// kernel needs its virtio console built in: Debian's cloud kernel has it from 6.12 on. Its drivers
/// for evidence are modules there: name them with --modules for snp and tdx, or nothing vouches for
/// the machine.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce image build --output machine
  evanesce image build --kernel /boot/vmlinuz-6.12.117+deb12-cloud-amd64 \
      --modules /lib/modules/6.12.117+deb12-cloud-amd64 --output machine
  evanesce run --enclave vm --enclave-image machine -- ./release.sh")]
struct BuildArgs {
    /// Write the image to DIR
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,

    /// Boot FILE (bzImage); otherwise the newest cloud kernel in /boot
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Take the modules that evidence needs from DIR, the kernel's own below /lib/modules
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,

    /// Have the machine load FILE (.ko or .ko.xz) as well; repeat it in the order to load
    #[arg(long = "module", value_name = "FILE")]
    further: Vec<PathBuf>,
}

/// Say what is in an image, and whether its files are what its list says
///
/// With a firmware, also what a processor with SEV-SNP measures of a machine that `run --enclave snp`
/// starts with both. What a TDX machine measures cannot be calculated; one of kind vm measures
/// nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce image show machine
  evanesce image show machine --enclave-firmware OVMF.amdsev.fd --json")]
struct ShowArgs {
    /// The image
    #[arg(value_name = "DIR")]
    image: PathBuf,

    /// Calculate the launch measurement with the firmware FILE, as `run --enclave-firmware` takes it
    #[arg(long, visible_alias = "firmware", value_name = "FILE")]
    enclave_firmware: Option<PathBuf>,
}

/// Makes an image, or reads one.
///
/// # Errors
///
/// Where a file is missing, cannot be written, or is not what it should be.
pub fn run(args: &ImageArgs) -> Result<ImageReport, CommandError> {
    let (path, image, firmware) = match &args.command {
        ImageCommand::Build(BuildArgs { output, kernel, modules, further }) => {
            let kernel = match kernel {
                Some(kernel) => kernel.clone(),
                None => newest_kernel(Path::new(BOOT))?,
            };
            let bytes = fs::read(&kernel)
                .map_err(|source| KernelError::Read { path: kernel.clone(), source })?;
            let mut loaded = match modules {
                Some(folder) => KernelModules::list(folder)?.of_evidence()?,
                None => Vec::new(),
            };
            for path in further {
                loaded.push(Module::read(path)?);
            }
            (output, build_image(&bytes, &loaded, output)?, None)
        }
        ImageCommand::Show(ShowArgs { image, enclave_firmware }) => {
            (image, Image::open(image)?, enclave_firmware.as_deref())
        }
    };
    let measure = |path| -> Result<_, CommandError> {
        Ok(SnpMeasurement::of(&image, &Firmware::read(path)?)?)
    };
    let snp_measurement = firmware.map(measure).transpose()?;
    let manifest = image.manifest();
    Ok(ImageReport {
        path: path.clone(),
        image: manifest.digest(),
        kernel: manifest.kernel,
        initrd: manifest.initrd,
        command_line: manifest.command_line.clone(),
        init: manifest.init,
        worker: manifest.worker,
        attester: manifest.attester,
        modules: manifest.modules.iter().map(|(name, _)| name.clone()).collect(),
        snp_measurement,
    })
}

/// The last of the cloud kernels by name.
fn newest_kernel(folder: &Path) -> Result<PathBuf, KernelError> {
    let none = || KernelError::None { folder: folder.to_owned() };
    let names = fs::read_dir(folder).map_err(|_| none())?.filter_map(Result::ok);
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("vmlinuz-") && name.contains("cloud"))
        .max()
        .map(|name| folder.join(name))
        .ok_or_else(none)
}

/// Why there is no kernel for an image.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// None was named, and there is none to be found.
    #[error("there is no cloud kernel in {}", folder.display())]
    None {
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// It cannot be read.
    #[error("kernel {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel that runs said.
        source: io::Error,
    },
}

impl Coded for KernelError {
    fn code(&self) -> &'static str {
        match self {
            Self::None { .. } => "image.no-kernel",
            Self::Read { .. } => "image.read",
        }
    }
}

/// What is in an image.
#[derive(Debug, Serialize)]
pub struct ImageReport {
    path: PathBuf,
    image: Digest,
    kernel: Digest,
    initrd: Digest,
    command_line: String,
    init: Digest,
    worker: Digest,
    attester: Digest,
    /// In the order in which they are loaded.
    modules: Vec<String>,
    /// Of a SEV-SNP machine with the firmware that was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    snp_measurement: Option<SnpMeasurement>,
}

impl Report for ImageReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        let modules = match self.modules.is_empty() {
            true => "none: nothing vouches for a machine of this image".to_owned(),
            false => self.modules.join(" "),
        };
        writeln!(out, "image      {} ({})", self.path.display(), self.image)?;
        writeln!(out, "kernel     {}", self.kernel)?;
        writeln!(out, "initrd     {}", self.initrd)?;
        writeln!(out, "  init     {}", self.init)?;
        writeln!(out, "  worker   {}", self.worker)?;
        writeln!(out, "  attester {}", self.attester)?;
        writeln!(out, "  modules  {modules}")?;
        writeln!(out, "command    {}", self.command_line)?;
        self.snp_measurement.iter().try_for_each(|found| writeln!(out, "sev-snp    {found}"))
    }
}

const BOOT: &str = "/boot";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_cloud_kernel_is_taken_and_no_other() {
        let boot = tempfile::tempdir().unwrap();
        assert_eq!(newest_kernel(boot.path()).unwrap_err().code(), "image.no-kernel");
        for name in ["vmlinuz-6.1.0-56-cloud-amd64", "vmlinuz-6.12.1-cloud-amd64", "vmlinuz-7.0"] {
            fs::write(boot.path().join(name), "").unwrap();
        }

        let found = newest_kernel(boot.path()).unwrap();

        assert_eq!(found, boot.path().join("vmlinuz-6.12.1-cloud-amd64"));
    }
}
