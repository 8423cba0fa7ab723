//! How QEMU starts a worker's machine.
//!
//! Standard input is the machine's memory, standard output its port, standard error what QEMU and
//! the console say: a machine needs no other descriptor, and no path but those of its image.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::image::Image;

/// What kind of machine a worker gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Enclave {
    /// A machine of its own, whose memory its host can read.
    Vm,
    /// The same with memory that AMD's SEV-SNP encrypts.
    Snp,
    /// The same with memory that Intel's TDX encrypts.
    Tdx,
}

impl Enclave {
    /// Its name on the command line and in receipts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Snp => "snp",
            Self::Tdx => "tdx",
        }
    }

    /// Whether the platform encrypts the machine's memory.
    pub const fn is_encrypted(self) -> bool {
        match self {
            Self::Vm => false,
            Self::Snp | Self::Tdx => true,
        }
    }
}

impl fmt::Display for Enclave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Enclave {
    type Err = ParseEnclaveError;

    /// Reads exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Vm, Self::Snp, Self::Tdx];
        all.into_iter().find(|known| known.name() == text).ok_or(ParseEnclaveError)
    }
}

/// A text that names no kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are `vm`, `snp` and `tdx`")]
pub struct ParseEnclaveError;

/// What executes the machine's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor, by way of the host's kernel.
    Kvm,
    /// QEMU alone: slow, and everywhere.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

impl FromStr for Accelerator {
    type Err = ParseAcceleratorError;

    /// Reads exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            _ => Err(ParseAcceleratorError),
        }
    }
}

/// A text that names no accelerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are `kvm` and `tcg`")]
pub struct ParseAcceleratorError;

/// What is to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start<'a> {
    /// What kind of machine.
    pub enclave: Enclave,
    /// What executes it; a machine whose memory is encrypted takes KVM.
    pub accelerator: Accelerator,
    /// Its image.
    pub image: &'a Image,
    /// Its firmware: OVMF, built for the platform; `None` takes QEMU's own, for [`Enclave::Vm`].
    pub firmware: Option<PathBuf>,
}

/// QEMU's arguments.
///
/// For SEV-SNP and TDX they are those of QEMU's manual, `docs/system/i386/amd-memory-encryption.rst`
/// and `docs/system/i386/tdx.rst`: a guest object, `confidential-guest-support` that names it, and
/// the firmware by `-bios`. `kernel-hashes=on` has kernel, archive and command line measured.
pub fn arguments(start: &Start<'_>) -> Vec<OsString> {
    let mut line = Line::default();
    for folder in FIRMWARE_FOLDERS {
        line.add("-L", folder);
    }
    line.add(
        "-accel",
        match start.accelerator {
            // Everything is locked into memory: so much is enough for one worker's code.
            Accelerator::Tcg => "tcg,thread=single,tb-size=64",
            Accelerator::Kvm => "kvm",
        },
    );
    let memory = "memory-backend=ram,dump-guest-core=off";
    match start.enclave {
        Enclave::Vm => line.add("-machine", format!("q35,{memory}")),
        Enclave::Snp => {
            line.add("-machine", format!("q35,confidential-guest-support=sev0,{memory}"));
            let snp = format!("{SNP},policy={SNP_GUEST_POLICY:#x},kernel-hashes=on");
            line.add("-object", format!("sev-snp-guest,id=sev0,{snp}"));
        }
        Enclave::Tdx => {
            let split = "kernel-irqchip=split,confidential-guest-support=tdx0";
            line.add("-machine", format!("q35,{split},{memory}"));
            line.add("-object", "tdx-guest,id=tdx0");
        }
    }
    line.add(
        "-cpu",
        match (start.enclave, start.accelerator) {
            // Part of what is measured: the measurement is computed for this one.
            (Enclave::Snp, _) => SNP_CPU,
            (Enclave::Vm | Enclave::Tdx, Accelerator::Kvm) => "host",
            (Enclave::Vm | Enclave::Tdx, Accelerator::Tcg) => "max",
        },
    );
    line.add("-smp", PROCESSORS.to_string());
    line.add("-m", format!("{MEMORY_MIB}M"));
    // Standard input is the memory: who started the machine keeps it, and overwrites it at the end.
    let backend = format!("size={MEMORY_MIB}M,mem-path=/proc/self/fd/0,share=on");
    line.add("-object", format!("memory-backend-file,id=ram,{backend}"));
    line.add("-overcommit", "mem-lock=on");
    for alone in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        line.alone(alone);
    }
    line.add("-display", "none");
    line.add("-net", "none");
    line.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    if let Some(firmware) = &start.firmware {
        line.add("-bios", firmware);
    }
    line.add("-kernel", start.image.kernel());
    line.add("-initrd", start.image.initrd());
    line.add("-append", &start.image.manifest().command_line);
    line.add("-chardev", "file,id=console,path=/proc/self/fd/2,append=on");
    line.add("-device", "isa-serial,chardev=console");
    line.add("-chardev", "socket,id=port,fd=1");
    let shared =
        if start.enclave.is_encrypted() { ",disable-legacy=on,iommu_platform=on" } else { "" };
    line.add("-device", format!("virtio-serial-pci,max_ports=2{shared}"));
    let name = evanesce_protocol::machine::PORT;
    line.add("-device", format!("virtserialport,chardev=port,name={name},nr=1"));
    line.0
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn add(&mut self, option: &str, value: impl Into<OsString>) {
        self.alone(option);
        self.0.push(value.into());
    }

    fn alone(&mut self, option: &str) {
        self.0.push(option.into());
    }
}

/// All the memory that a machine has.
pub const MEMORY_BYTES: u64 = MEMORY_MIB << 20;

/// A kernel, 30 MiB of programs in two copies while they are unpacked, and the worker at work.
const MEMORY_MIB: u64 = 256;

/// A worker has one thread. Each processor is measured.
pub(crate) const PROCESSORS: u32 = 1;

/// Where Debian, Fedora and their like have the firmware of machines without encryption.
const FIRMWARE_FOLDERS: &[&str] = &["/usr/share/qemu", "/usr/share/seabios"];

/// The policy of a SEV-SNP machine, as its reports have it: bit 17 has to be set, simultaneous
/// multithreading is allowed (16), debugging (19) and migration (18) are not.
pub const SNP_GUEST_POLICY: u64 = 0x3_0000;

/// The C bit and the physical address bits that it costs, of every EPYC with SEV-SNP.
const SNP: &str = "cbitpos=51,reduced-phys-bits=1";

pub(crate) const SNP_CPU: &str = "EPYC-v4";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Parts;

    #[test]
    fn a_machine_has_a_memory_a_port_and_a_console_and_nothing_else() {
        let line = line(Enclave::Vm, Accelerator::Tcg, None);

        let devices: Vec<_> = values(&line, "-device");
        assert_eq!(
            devices,
            [
                "isa-serial,chardev=console",
                "virtio-serial-pci,max_ports=2",
                "virtserialport,chardev=port,name=evanesce,nr=1"
            ]
        );
        for alone in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            assert!(line.contains(&alone.to_owned()), "{alone}");
        }
        assert_eq!(values(&line, "-net"), ["none"]);
        for absent in ["-drive", "-netdev", "-qmp", "-monitor", "-bios", "-virtfs", "-nic"] {
            assert!(!line.contains(&absent.to_owned()), "{absent}");
        }
        assert_eq!(values(&line, "-overcommit"), ["mem-lock=on"]);
        assert!(values(&line, "-sandbox")[0].starts_with("on,"));
    }

    /// QEMU's manual, `docs/system/i386/amd-memory-encryption.rst`: `-machine
    /// ...,confidential-guest-support=sev0 -object sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1`,
    /// `kernel-hashes=on` of its QAPI schema (`SevCommonProperties`), the policy of `SevSnpGuestProperties`
    /// (default 0x30000).
    #[test]
    fn a_snp_machine_is_started_as_the_manual_of_qemu_has_it() {
        let line = line(Enclave::Snp, Accelerator::Kvm, Some("/fw/OVMF.amdsev.fd"));

        let machine = &values(&line, "-machine")[0];
        assert!(machine.contains("confidential-guest-support=sev0"), "{machine}");
        let object =
            "sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1,policy=0x30000,kernel-hashes=on";
        assert_eq!(values(&line, "-object")[0], object);
        assert_eq!(values(&line, "-bios"), ["/fw/OVMF.amdsev.fd"]);
        assert_eq!(values(&line, "-cpu"), ["EPYC-v4"]);
        assert_eq!(values(&line, "-accel"), ["kvm"]);
        assert_eq!(values(&line, "-append"), [crate::COMMAND_LINE]);
    }

    /// QEMU's manual, `docs/system/i386/tdx.rst`: `-accel kvm -cpu host -object tdx-guest,id=tdx0
    /// -machine ...,confidential-guest-support=tdx0 -bios OVMF.fd`, with a split interrupt controller.
    #[test]
    fn a_tdx_machine_is_started_as_the_manual_of_qemu_has_it() {
        let line = line(Enclave::Tdx, Accelerator::Kvm, Some("/fw/OVMF.fd"));

        let machine = &values(&line, "-machine")[0];
        assert!(machine.contains("kernel-irqchip=split"), "{machine}");
        assert!(machine.contains("confidential-guest-support=tdx0"), "{machine}");
        assert_eq!(values(&line, "-object")[0], "tdx-guest,id=tdx0");
        assert_eq!(values(&line, "-bios"), ["/fw/OVMF.fd"]);
        assert_eq!(values(&line, "-cpu"), ["host"]);
    }

    #[test]
    fn kinds_and_accelerators_are_read_from_what_they_print() {
        for kind in [Enclave::Vm, Enclave::Snp, Enclave::Tdx] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        for accelerator in [Accelerator::Kvm, Accelerator::Tcg] {
            assert_eq!(accelerator.to_string().parse(), Ok(accelerator));
        }
        assert_eq!("sev".parse::<Enclave>(), Err(ParseEnclaveError));
    }

    fn line(enclave: Enclave, accelerator: Accelerator, firmware: Option<&str>) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = vec![0; 0x400];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        let parts = Parts {
            kernel: &kernel,
            init: b"init",
            worker: b"worker",
            attester: b"attester",
            libraries: &[],
            modules: &[],
        };
        let image = parts.build(folder.path()).unwrap();
        let firmware = firmware.map(PathBuf::from);
        arguments(&Start { enclave, accelerator, image: &image, firmware })
            .into_iter()
            .map(|argument| argument.into_string().unwrap())
            .collect()
    }

    fn values(line: &[String], option: &str) -> Vec<String> {
        line.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].clone()).collect()
    }
}
