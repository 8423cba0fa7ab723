//! What opening a file may cost: how much work, and the memory that scrypt does it in.

use evanesce_protocol::control::KeyFormatError;
use evanesce_protocol::custody::Kdf;
use evanesce_protocol::limits::{BCRYPT_ROUNDS_MAX, PBKDF2_ITERATIONS_MAX};

/// Where scrypt's scratch memory comes from. It holds what a passphrase can be tried against, so
/// its owner wipes it.
pub trait Workroom {
    /// Runs `derive` with `bytes` of memory for everything that it allocates.
    ///
    /// # Errors
    ///
    /// [`KeyFormatError::Scratch`] where there is not as much; `derive` was not run then.
    fn with_scratch(
        &mut self,
        bytes: usize,
        derive: &mut dyn FnMut(),
    ) -> Result<(), KeyFormatError>;
}

/// The ordinary heap: for tests and for tools whose keys are nobody's.
#[derive(Clone, Copy, Debug, Default)]
pub struct OrdinaryHeap;

impl Workroom for OrdinaryHeap {
    fn with_scratch(
        &mut self,
        _bytes: usize,
        derive: &mut dyn FnMut(),
    ) -> Result<(), KeyFormatError> {
        derive();
        Ok(())
    }
}

/// What may be spent on one file, and where.
pub struct Work<'a> {
    /// The highest work factor of scrypt, log2 of `N` where `r` is 8.
    pub factor_max: u8,
    /// Where scrypt works.
    pub room: &'a mut dyn Workroom,
}

impl std::fmt::Debug for Work<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("factor_max", &self.factor_max).finish_non_exhaustive()
    }
}

impl Work<'_> {
    /// Derives a key with scrypt (RFC 7914).
    pub(crate) fn scrypt(
        &mut self,
        cost: Scrypt,
        passphrase: &[u8],
        salt: &[u8],
        key: &mut [u8],
    ) -> Result<(), KeyFormatError> {
        let too_much = |found: String, limit: String| KeyFormatError::Work {
            kdf: "scrypt".into(),
            found,
            limit,
        };
        if cost.p > PARALLEL_MAX {
            let found = format!("parallelization {}", cost.p);
            return Err(too_much(found, PARALLEL_MAX.to_string()));
        }
        let blocks = u64::from(self.factor_max);
        if cost.memory_bytes() > BLOCK_BYTES << blocks {
            let found = match cost.r {
                8 => format!("work factor {}", cost.log_n),
                _ => format!("{} MiB", cost.memory_bytes() >> 20),
            };
            return Err(too_much(found, self.factor_max.to_string()));
        }
        let params = scrypt::Params::new(cost.log_n, cost.r, cost.p)
            .map_err(|_| KeyFormatError::Encryption { found: "scrypt of no valid cost".into() })?;
        let bytes = usize::try_from(cost.scratch_bytes()).expect("bounded above");
        let mut derived = false;
        self.room.with_scratch(bytes, &mut || {
            derived = scrypt::scrypt(passphrase, salt, &params, key).is_ok();
        })?;
        assert!(derived, "a workroom runs what it is given, and the key has a valid length");
        Ok(())
    }

    /// Whether as many iterations of PBKDF2 are done.
    pub(crate) fn admit_pbkdf2(&self, iterations: u32) -> Result<(), KeyFormatError> {
        at_most("PBKDF2", "iterations", iterations, PBKDF2_ITERATIONS_MAX)
    }

    /// Whether as many rounds of `bcrypt_pbkdf` are done.
    pub(crate) fn admit_bcrypt(&self, rounds: u32) -> Result<(), KeyFormatError> {
        at_most("bcrypt", "rounds", rounds, BCRYPT_ROUNDS_MAX)
    }
}

fn at_most(kdf: &str, unit: &str, found: u32, limit: u32) -> Result<(), KeyFormatError> {
    match found <= limit {
        true => Ok(()),
        false => Err(KeyFormatError::Work {
            kdf: kdf.into(),
            found: format!("{found} {unit}"),
            limit: limit.to_string(),
        }),
    }
}

/// The cost of scrypt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scrypt {
    pub(crate) log_n: u8,
    pub(crate) r: u32,
    pub(crate) p: u32,
}

impl Scrypt {
    /// What age always takes but for `N`.
    pub(crate) const fn of_age(log_n: u8) -> Self {
        Self { log_n, r: 8, p: 1 }
    }

    pub(crate) fn kdf(self) -> Kdf {
        Kdf::Scrypt { log_n: self.log_n, memory_bytes: self.memory_bytes() }
    }

    /// `128 * N * r`, or as much as can be said.
    fn memory_bytes(self) -> u64 {
        let blocks = 1_u64.checked_shl(self.log_n.into()).unwrap_or(u64::MAX);
        blocks.saturating_mul(128 * u64::from(self.r))
    }

    /// What is allocated beside that: `128 * r * (p + 1)`, and room for alignment.
    fn scratch_bytes(self) -> u64 {
        let rest = 128 * u64::from(self.r) * (u64::from(self.p) + 1) + ALIGNMENT_BYTES;
        self.memory_bytes().saturating_add(rest)
    }
}

/// Bytes of scratch for `N` = 1 where `r` is 8.
const BLOCK_BYTES: u64 = 1024;

const ALIGNMENT_BYTES: u64 = 1024;

const PARALLEL_MAX: u32 = 16;
