//! Ways between the holder of a key and whoever asks for it: a stream, or files in a directory.
//!
//! What goes either way is public or sealed, and is judged by `evanesce-release`. These only carry
//! it: with a limit on each message and a deadline on each wait.

pub(crate) mod address;
pub(crate) mod client;
pub(crate) mod directory;
pub(crate) mod judge;
pub(crate) mod server;
pub(crate) mod stream;
pub(crate) mod tls;
