//! Where bytes are: files, devices, directories, processes.

pub(crate) mod path;
pub(crate) mod process;
