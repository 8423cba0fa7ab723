//! Which modules of a kernel have to be loaded for a driver, and in which order.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::VmError;
use crate::programs::{bytes, output};

/// All modules of one kernel, by name.
#[derive(Debug)]
pub(crate) struct Modules {
    files: BTreeMap<String, PathBuf>,
    builtin: Vec<String>,
}

impl Modules {
    /// Finds them in `folder`, a kernel's own below `lib/modules`.
    pub(crate) fn of_kernel(folder: &Path) -> Result<Self, VmError> {
        let found = output(Command::new("find").arg(folder).args(["-name", "*.ko*"]))?;
        let files = found.lines().map(|path| (module_name(path), PathBuf::from(path))).collect();
        let builtin = fs::read_to_string(folder.join("modules.builtin"))
            .map_err(VmError::io("read modules.builtin"))?;
        Ok(Self { files, builtin: builtin.lines().map(module_name).collect() })
    }

    /// The modules that `wanted` need, before those that need them: name and contents.
    pub(crate) fn in_order(&self, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>, VmError> {
        let mut order = Vec::new();
        for name in wanted {
            self.visit(name, &mut order)?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, order: &mut Vec<(String, Vec<u8>)>) -> Result<(), VmError> {
        if order.iter().any(|(done, _)| done == name) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else {
            return match self.builtin.iter().any(|builtin| builtin == name) {
                true => Ok(()),
                false => Err(VmError::Package { what: format!("module {name}") }),
            };
        };
        let module = match path.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => bytes(Command::new("xz").arg("-dc").arg(path))?,
            Some("zst") => bytes(Command::new("zstd").arg("-dcq").arg(path))?,
            _ => fs::read(path).map_err(VmError::io(format!("read {}", path.display())))?,
        };
        for needed in dependencies(&module) {
            self.visit(&needed, order)?;
        }
        order.push((name.to_owned(), module));
        Ok(())
    }
}

/// What a module says it depends on: the text after `depends=` in its section `.modinfo`.
fn dependencies(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(start) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let text = module[start + key.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    text.split(',').filter(|name| !name.is_empty()).map(module_name).collect()
}

/// `path/to/some-name.ko.xz` is module `some_name`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_what_it_depends_on() {
        let module = b"\x7fELF\0license=GPL\0depends=virtio,virtio-ring\0name=virtio_blk\0";

        assert_eq!(dependencies(module), ["virtio", "virtio_ring"]);
        assert!(dependencies(b"\0depends=\0name=x\0").is_empty());
    }

    #[test]
    fn names_are_those_the_kernel_uses() {
        assert_eq!(module_name("/lib/drivers/virtio-rng.ko.xz"), "virtio_rng");
    }
}
