//! What is kept on disk, by what it is for.
//!
//! ```text
//! DIR/snp/PRODUCT/crl.der            the revocation list of a product line
//! DIR/snp/PRODUCT/CHIP/TCB.der       the VCEK of a chip at a TCB, five numbers with hyphens
//! DIR/tdx/FMSPC-CA.json              the collateral of a kind of platform
//! ```

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use evanesce_appraisal::{EndorsementRequest, Product, TcbParts};
use evanesce_evidence::{Endorsements, SnpEndorsements, TdxEndorsements};

/// A directory of certificates, CRLs and collateral. It need not be there.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// The cache in `directory`.
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// What is kept for `request`.
    ///
    /// # Errors
    ///
    /// [`CacheError`] where a file is there and cannot be read.
    pub fn find(&self, request: &EndorsementRequest) -> Result<Endorsements, CacheError> {
        let mut found = Endorsements::default();
        match request {
            EndorsementRequest::Snp { product, hardware_id, tcb } => {
                let vek = self.read(&self.vek(*product, hardware_id, tcb))?;
                let crl = self.read(&self.crl(*product))?;
                if vek.is_some() || crl.is_some() {
                    found.snp = Some(SnpEndorsements { vek, crl });
                }
            }
            EndorsementRequest::Tdx { fmspc, ca } => {
                let path = self.collateral(*fmspc, ca.name());
                if let Some(bytes) = self.read(&path)? {
                    let collateral =
                        String::from_utf8(bytes).map_err(|_| CacheError::NotText { path })?;
                    found.tdx = Some(TdxEndorsements { collateral });
                }
            }
            _ => {}
        }
        Ok(found)
    }

    /// Keeps what was fetched for `request`. What is not in `endorsements` stays as it is.
    ///
    /// # Errors
    ///
    /// [`CacheError`] where it cannot be written. Each file is whole or as it was.
    pub fn keep(
        &self,
        request: &EndorsementRequest,
        endorsements: &Endorsements,
    ) -> Result<(), CacheError> {
        match request {
            EndorsementRequest::Snp { product, hardware_id, tcb } => {
                let snp = endorsements.snp.as_ref();
                if let Some(vek) = snp.and_then(|snp| snp.vek.as_deref()) {
                    self.write(&self.vek(*product, hardware_id, tcb), vek)?;
                }
                if let Some(crl) = snp.and_then(|snp| snp.crl.as_deref()) {
                    self.write(&self.crl(*product), crl)?;
                }
            }
            EndorsementRequest::Tdx { fmspc, ca } => {
                if let Some(tdx) = &endorsements.tdx {
                    let path = self.collateral(*fmspc, ca.name());
                    self.write(&path, tdx.collateral.as_bytes())?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Where notes between two fetches are kept.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
        let write = || -> io::Result<()> {
            let directory = path.parent().unwrap_or(&self.directory);
            fs::create_dir_all(directory)?;
            let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(directory)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        };
        write().map_err(|source| CacheError::Write { path: path.to_owned(), source })
    }

    pub(crate) fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, CacheError> {
        let failed = |source| CacheError::Read { path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        match u64::try_from(bytes.len()).is_ok_and(|found| found <= FILE_BYTES_MAX) {
            true => Ok(Some(bytes)),
            false => Err(CacheError::TooLong { path: path.to_owned() }),
        }
    }

    fn vek(&self, product: Product, hardware_id: &[u8], tcb: &TcbParts) -> PathBuf {
        let TcbParts { fmc, bootloader, tee, snp, microcode } = tcb;
        let fmc = fmc.unwrap_or(0);
        let name = format!("{fmc}-{bootloader}-{tee}-{snp}-{microcode}.der");
        self.product(product).join(hex::encode(hardware_id)).join(name)
    }

    fn crl(&self, product: Product) -> PathBuf {
        self.product(product).join("crl.der")
    }

    fn product(&self, product: Product) -> PathBuf {
        self.directory.join("snp").join(product.to_string())
    }

    fn collateral(&self, fmspc: [u8; 6], ca: &str) -> PathBuf {
        self.directory.join("tdx").join(format!("{}-{ca}.json", hex::encode(fmspc)))
    }
}

/// Why the cache could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// A file could not be read.
    #[error("{} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A file is longer than anything that is kept.
    #[error("{} is longer than {FILE_BYTES_MAX} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// Collateral is not text.
    #[error("{} is not text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be written.
    #[error("{} could not be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl CacheError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::TooLong { .. } | Self::NotText { .. } => {
                "collateral.cache-read"
            }
            Self::Write { .. } => "collateral.cache-write",
        }
    }
}

/// Bytes in a file of the cache.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use evanesce_appraisal::PckCa;

    use super::*;

    fn milan() -> EndorsementRequest {
        EndorsementRequest::Snp {
            product: Product::Milan,
            hardware_id: vec![0xAB; 64],
            tcb: TcbParts { fmc: None, bootloader: 3, tee: 0, snp: 8, microcode: 115 },
        }
    }

    #[test]
    fn what_is_kept_is_found_for_the_same_chip_and_tcb_and_for_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path().join("collateral"));
        assert_eq!(cache.find(&milan()).unwrap(), Endorsements::default());
        let snp = SnpEndorsements { vek: Some(b"vek".to_vec()), crl: Some(b"crl".to_vec()) };
        let kept = Endorsements { snp: Some(snp), tdx: None };

        cache.keep(&milan(), &kept).unwrap();

        assert_eq!(cache.find(&milan()).unwrap(), kept);
        let EndorsementRequest::Snp { product, hardware_id, tcb } = milan() else { panic!() };
        let tcb = TcbParts { microcode: 116, ..tcb };
        let other = EndorsementRequest::Snp { product, hardware_id, tcb };
        assert_eq!(cache.find(&other).unwrap().snp.unwrap().vek, None);
        let tdx = EndorsementRequest::Tdx { fmspc: [1; 6], ca: PckCa::Platform };
        assert_eq!(cache.find(&tdx).unwrap(), Endorsements::default());
    }
}
