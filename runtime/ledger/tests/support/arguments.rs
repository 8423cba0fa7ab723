//! The command line of an example: a directory, then numbers.

use std::path::PathBuf;
use std::str::FromStr;

/// What is left of the command line.
pub(crate) struct Arguments(std::iter::Skip<std::env::Args>);

impl Arguments {
    /// Takes the directory.
    pub(crate) fn of_process() -> (PathBuf, Self) {
        let mut arguments = std::env::args().skip(1);
        let directory = arguments.next().expect("name a directory").into();
        (directory, Self(arguments))
    }

    /// The next number, or the usual one.
    pub(crate) fn number_or<N: FromStr>(&mut self, usual: N) -> N {
        match self.0.next() {
            Some(text) => text.parse().unwrap_or_else(|_| panic!("{text} is not a number")),
            None => usual,
        }
    }
}
