//! The vendors' roots, pinned: nothing that comes with evidence is ever a root.

use crate::snp::{Certificate, Product};

/// Which keys an appraisal ends at.
#[derive(Debug)]
pub struct Roots {
    pub(crate) snp: Vec<SnpRoots>,
    /// The DER of Intel's root certificate.
    pub(crate) tdx: Option<Vec<u8>>,
    pub(crate) replaced: bool,
}

/// The three certificates of one AMD product line.
#[derive(Debug)]
pub(crate) struct SnpRoots {
    pub(crate) product: Product,
    /// The root: signs itself, the two below, and the revocation list.
    pub(crate) ark: Certificate,
    /// Issues VCEKs.
    pub(crate) ask: Certificate,
    /// Issues VLEKs.
    pub(crate) asvk: Certificate,
}

impl Roots {
    /// AMD's roots for Milan, Genoa and Turin, and Intel's production root (the one in `dcap-qvl`).
    pub fn vendors() -> Self {
        let snp = [(Product::Milan, MILAN), (Product::Genoa, GENOA), (Product::Turin, TURIN)]
            .into_iter()
            .map(|(product, pem)| {
                SnpRoots::read(product, pem).expect("a test reads each of the embedded files")
            })
            .collect();
        Self { snp, tdx: None, replaced: false }
    }

    /// Roots for tests: one product line's ARK, ASK and ASVK in PEM. A production policy refuses
    /// whatever is appraised with them.
    ///
    /// Returns `None` if the text is not three certificates.
    #[cfg(feature = "danger-replaced-roots")]
    pub fn danger_replaced(product: Product, pem: &str) -> Option<Self> {
        Some(Self { snp: vec![SnpRoots::read(product, pem)?], tdx: None, replaced: true })
    }

    /// Roots for tests: a certificate in DER in the place of Intel's root.
    #[cfg(feature = "danger-replaced-roots")]
    pub fn danger_replaced_tdx(der: &[u8]) -> Self {
        Self { snp: Vec::new(), tdx: Some(der.to_vec()), replaced: true }
    }

    /// Roots for tests out of one file: three certificates in PEM are ARK, ASK and ASVK of the
    /// product line that the ASK's name says, one certificate stands for Intel's root.
    ///
    /// Returns `None` for anything else.
    #[cfg(feature = "danger-replaced-roots")]
    pub fn danger_from_pem(pem: &str) -> Option<Self> {
        let certificates: Vec<_> = pem.split_inclusive(END).collect();
        match certificates.as_slice() {
            [one] => {
                let (_, der) = x509_cert::der::pem::decode_vec(one.trim().as_bytes()).ok()?;
                Some(Self::danger_replaced_tdx(&der))
            }
            [_, ask, _] => {
                let ask = Certificate::read(ask.as_bytes()).ok()?.subject();
                Self::danger_replaced(Product::of_name(ask.strip_prefix("SEV-")?)?, pem)
            }
            _ => None,
        }
    }

    /// The certificates of `product`.
    pub(crate) fn of(&self, product: Product) -> Option<&SnpRoots> {
        self.snp.iter().find(|roots| roots.product == product)
    }
}

impl SnpRoots {
    /// Reads ARK, ASK and ASVK, in this order.
    fn read(product: Product, pem: &str) -> Option<Self> {
        let mut certificates =
            pem.split_inclusive(END).map(|one| Certificate::read(one.as_bytes()).ok());
        let roots = Self {
            product,
            ark: certificates.next()??,
            ask: certificates.next()??,
            asvk: certificates.next()??,
        };
        certificates.next().is_none().then_some(roots)
    }
}

const END: &str = "-----END CERTIFICATE-----\n";

const MILAN: &str = include_str!("../roots/amd-milan.pem");
const GENOA: &str = include_str!("../roots/amd-genoa.pem");
const TURIN: &str = include_str!("../roots/amd-turin.pem");

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of the root certificates that AMD publishes at
    /// `https://kdsintf.amd.com/vcek/v1/{product}/cert_chain`, as of November 2026.
    const ARK_SHA256: [(Product, &str, &str); 3] = [
        (Product::Milan, MILAN, "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"),
        (Product::Genoa, GENOA, "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"),
        (Product::Turin, TURIN, "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"),
    ];

    #[test]
    fn the_embedded_roots_are_those_that_amd_publishes() {
        for (product, pem, sha256) in ARK_SHA256 {
            let ark = pem.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
            let (_, der) = x509_cert::der::pem::decode_vec(ark.as_bytes()).unwrap();
            let found = ring::digest::digest(&ring::digest::SHA256, &der);
            assert_eq!(hex::encode(found), sha256, "{product}");
        }
    }

    #[test]
    fn each_embedded_root_signed_itself_and_both_issuers() {
        for SnpRoots { product, ark, ask, asvk } in &Roots::vendors().snp {
            for signed in [ark, ask, asvk] {
                assert!(signed.is_signed_by(ark), "{product}: {}", signed.subject());
            }
        }
    }
}
