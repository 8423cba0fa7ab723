//! The memory of a machine, as root reads it from outside.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use evanesce_residue::{Canary, Scanner, unwatched};

/// A machine's memory, held open: what is in it can be read after the machine is gone.
#[derive(Debug)]
pub(crate) struct Memory {
    file: File,
}

impl Memory {
    /// Of the machine that this process is: its standard input.
    pub(crate) fn of(machine: u32) -> Self {
        Self { file: File::open(format!("/proc/{machine}/fd/0")).unwrap() }
    }

    /// Finds a key of which only the public half is known: the signer keeps its scalar, the prefix
    /// of its nonces behind it and the public key close together, and any 32 bytes can be tried.
    /// Returns a search for the first two.
    pub(crate) fn find_key(&self, public_key: &[u8; 32]) -> Option<Scanner> {
        let bytes = self.read();
        let places = bytes.windows(32).enumerate().filter(|(_, window)| window == public_key);
        places.map(|(at, _)| at).find_map(|at| {
            let first = at.saturating_sub(AROUND) & !3;
            let last = (at + AROUND).min(bytes.len() - 64);
            (first..last).step_by(4).find_map(|at| {
                let (candidate, rest) = bytes[at..].split_first_chunk::<32>()?;
                let scalar = Option::<Scalar>::from(Scalar::from_canonical_bytes(*candidate))?;
                if EdwardsPoint::mul_base(&scalar).compress().as_bytes() != public_key {
                    return None;
                }
                let forms = Canary::random().unwrap().forms(&[]);
                let forms = forms.with_secret("scalar", candidate, false);
                let forms = forms.with_secret("prefix", &rest[..32], false);
                Some(Scanner::new(&forms))
            })
        })
    }

    /// How many fragments of eight bytes are in it.
    pub(crate) fn hits(&self, forms: &Scanner) -> usize {
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        forms.scan_path(&path, &mut unwatched()).unwrap().hits.len()
    }

    /// Whether there is nothing in it at all.
    pub(crate) fn is_zero(&self) -> bool {
        self.read().iter().all(|byte| *byte == 0)
    }

    fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.file.metadata().unwrap().len()).unwrap()];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

/// How far a key may be from its public half, in the same page or the next.
const AROUND: usize = 4096;
