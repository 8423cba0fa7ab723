//! What the vendors are asked for, and how politely.
//!
//! AMD 57230, "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification";
//! Intel's "PCK Certificate and Provisioning Certification Service" API, version 4.

use std::collections::BTreeMap;
use std::time::Duration;

use evanesce_appraisal::{EndorsementRequest, PckCa, Product, TcbParts};
use evanesce_evidence::{Endorsements, SnpEndorsements, TdxEndorsements};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cache::{Cache, CacheError};
use crate::http::{Answer, Http, HttpError, Url};

/// Whom to ask.
#[derive(Clone, Debug)]
pub struct Bases {
    /// AMD's key distribution service.
    pub amd: Url,
    /// Intel's provisioning certification service.
    pub intel: Url,
    /// Where Intel publishes the revocation list of its root.
    pub intel_root: Url,
}

impl Default for Bases {
    /// The vendors themselves.
    fn default() -> Self {
        let url = |text: &str| text.parse().expect("these are https URLs");
        Self {
            amd: url("https://kdsintf.amd.com"),
            intel: url("https://api.trustedservices.intel.com"),
            intel_root: url("https://certificates.trustedservices.intel.com"),
        }
    }
}

/// Time, as far as asking politely needs it.
pub trait Pause {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;

    /// Waits.
    fn pause(&self, time: Duration);
}

/// What was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// What there is now for the request.
    pub endorsements: Endorsements,
    /// The URLs that were asked, in order.
    pub asked: Vec<String>,
}

/// Asks the vendor for `request`, keeps what comes in `cache`, and returns it.
///
/// Between two requests to one host there is a gap, of this process and of any that used the cache
/// before. A host that wants to be left alone (429, 503) is, for as long as it says, three times at
/// most.
///
/// # Errors
///
/// [`FetchError`] names the step. What was in the cache stays.
pub fn fetch(
    request: &EndorsementRequest,
    bases: &Bases,
    cache: &Cache,
    http: &dyn Http,
    pause: &dyn Pause,
) -> Result<Fetched, FetchError> {
    let mut client = Client { http, pause, cache, asked: Vec::new() };
    let endorsements = match request {
        EndorsementRequest::Snp { product, hardware_id, tcb } => {
            let snp = client.amd(&bases.amd, *product, hardware_id, tcb)?;
            Endorsements { snp: Some(snp), tdx: None }
        }
        EndorsementRequest::Tdx { fmspc, ca } => {
            let tdx = client.intel(bases, *fmspc, *ca)?;
            Endorsements { snp: None, tdx: Some(tdx) }
        }
        _ => return Err(FetchError::Unknown),
    };
    cache.keep(request, &endorsements)?;
    Ok(Fetched { endorsements, asked: client.asked })
}

struct Client<'a> {
    http: &'a dyn Http,
    pause: &'a dyn Pause,
    cache: &'a Cache,
    asked: Vec<String>,
}

impl Client<'_> {
    fn amd(
        &mut self,
        base: &Url,
        product: Product,
        hardware_id: &[u8],
        tcb: &TcbParts,
    ) -> Result<SnpEndorsements, FetchError> {
        let TcbParts { fmc, bootloader, tee, snp, microcode } = tcb;
        let fmc = fmc.map(|fmc| format!("fmcSPL={fmc:02}&")).unwrap_or_default();
        let chip = hex::encode(hardware_id);
        let vek = self.get(&base.join(&format!(
            "vcek/v1/{product}/{chip}?{fmc}blSPL={bootloader:02}&teeSPL={tee:02}&snpSPL={snp:02}&ucodeSPL={microcode:02}"
        )))?;
        let crl = self.get(&base.join(&format!("vcek/v1/{product}/crl")))?;
        Ok(SnpEndorsements { vek: Some(vek.body), crl: Some(crl.body) })
    }

    fn intel(
        &mut self,
        bases: &Bases,
        fmspc: [u8; 6],
        ca: PckCa,
    ) -> Result<TdxEndorsements, FetchError> {
        let (base, ca, fmspc) = (&bases.intel, ca.name(), hex::encode_upper(fmspc));
        let pck_crl = base.join(&format!("sgx/certification/v4/pckcrl?ca={ca}&encoding=der"));
        let pck_crl = self.get(&pck_crl)?;
        let tcb = self.get(&base.join(&format!("tdx/certification/v4/tcb?fmspc={fmspc}")))?;
        let identity = self.get(&base.join("tdx/certification/v4/qe/identity"))?;
        let root_ca_crl = self.get(&bases.intel_root.join("IntelSGXRootCA.der"))?;

        let tcb_chain = chain(&tcb, "tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain")?;
        let qe_chain = chain(&identity, "sgx-enclave-identity-issuer-chain", "")?;
        let tcb = SignedTcb::read(&tcb)?;
        let identity = SignedIdentity::read(&identity)?;
        // As DCAP's tools write it: what is signed stays as it is spelled, in a text.
        let collateral = serde_json::json!({
            "pck_crl_issuer_chain": chain(&pck_crl, "sgx-pck-crl-issuer-chain", "")?,
            "root_ca_crl": hex::encode(&root_ca_crl.body),
            "pck_crl": hex::encode(&pck_crl.body),
            "tcb_info_issuer_chain": tcb_chain,
            "tcb_info": tcb.tcb_info.get(),
            "tcb_info_signature": tcb.signature,
            "qe_identity_issuer_chain": qe_chain,
            "qe_identity": identity.enclave_identity.get(),
            "qe_identity_signature": identity.signature,
        });
        Ok(TdxEndorsements { collateral: collateral.to_string() })
    }

    /// Asks, patiently. Only an answer with status 200 and a body is one.
    fn get(&mut self, url: &Url) -> Result<Answer, FetchError> {
        let mut wait = BACK_OFF_FIRST;
        for tries_left in (0..TRIES_MAX).rev() {
            self.keep_gap(url)?;
            self.asked.push(url.to_string());
            let answer = self.http.get(url)?;
            match answer.status {
                200 if !answer.body.is_empty() => return Ok(answer),
                429 | 503 if tries_left > 0 => {
                    let wanted = answer.header("retry-after").and_then(|text| text.parse().ok());
                    let wanted = wanted.map_or(wait, Duration::from_secs);
                    if wanted > BACK_OFF_LONGEST {
                        return Err(FetchError::Busy {
                            url: url.to_string(),
                            seconds: wanted.as_secs(),
                        });
                    }
                    self.pause.pause(wanted);
                    wait = (2 * wait).min(BACK_OFF_LONGEST);
                }
                429 | 503 => {
                    return Err(FetchError::Busy { url: url.to_string(), seconds: wait.as_secs() });
                }
                status => return Err(FetchError::Status { url: url.to_string(), status }),
            }
        }
        unreachable!("the last try returns")
    }

    /// Waits until the host was left alone for long enough, and notes that it is asked now.
    fn keep_gap(&self, url: &Url) -> Result<(), FetchError> {
        let path = self.cache.path(NOTES);
        // Notes that cannot be read are as good as none: they only make this process wait.
        let notes = self.cache.read(&path)?.unwrap_or_default();
        let mut notes: BTreeMap<String, u64> = serde_json::from_slice(&notes).unwrap_or_default();
        let now = self.pause.now_ms();
        let last = notes.get(url.authority()).copied().filter(|last| *last <= now);
        let gap_ms = u64::try_from(GAP.as_millis()).unwrap_or(u64::MAX);
        let left_ms = last.map_or(0, |last| gap_ms.saturating_sub(now - last));
        if left_ms > 0 {
            self.pause.pause(Duration::from_millis(left_ms));
        }
        notes.retain(|_, at| now.saturating_sub(*at) < 24 * 60 * 60 * 1000);
        notes.insert(url.authority().to_owned(), now + left_ms);
        let text = serde_json::to_vec(&notes).expect("texts and numbers");
        Ok(self.cache.write(&path, &text)?)
    }
}

/// A certificate chain in a header, percent-encoded PEM.
fn chain(answer: &Answer, name: &str, or: &str) -> Result<String, FetchError> {
    let value = answer.header(name).or_else(|| answer.header(or));
    let value = value.ok_or_else(|| FetchError::Answer { what: format!("no header {name}") })?;
    let text = percent_decode_str(value).decode_utf8();
    match text {
        Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => Ok(text.into_owned()),
        _ => Err(FetchError::Answer { what: format!("no certificates in header {name}") }),
    }
}

/// What Intel signed of a TCB, as it is spelled.
#[derive(Deserialize)]
struct SignedTcb<'a> {
    #[serde(rename = "tcbInfo", borrow)]
    tcb_info: &'a RawValue,
    signature: String,
}

impl<'a> SignedTcb<'a> {
    fn read(answer: &'a Answer) -> Result<Self, FetchError> {
        let read: Self = read_json(answer, "TCB info")?;
        check_signature(&read.signature)?;
        Ok(read)
    }
}

/// What Intel signed of its quoting enclave, as it is spelled.
#[derive(Deserialize)]
struct SignedIdentity<'a> {
    #[serde(rename = "enclaveIdentity", borrow)]
    enclave_identity: &'a RawValue,
    signature: String,
}

impl<'a> SignedIdentity<'a> {
    fn read(answer: &'a Answer) -> Result<Self, FetchError> {
        let read: Self = read_json(answer, "enclave identity")?;
        check_signature(&read.signature)?;
        Ok(read)
    }
}

fn read_json<'a, T: Deserialize<'a>>(answer: &'a Answer, what: &str) -> Result<T, FetchError> {
    serde_json::from_slice(&answer.body)
        .map_err(|error| FetchError::Answer { what: format!("no signed {what}: {error}") })
}

fn check_signature(signature: &str) -> Result<(), FetchError> {
    let mut bytes = [0; 64];
    hex::decode_to_slice(signature, &mut bytes)
        .map_err(|_| FetchError::Answer { what: "no signature of 64 bytes".to_owned() })
}

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// There was no answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The vendor wants to be left alone.
    #[error("{url} wants to be left alone for {seconds} seconds")]
    Busy {
        /// Who was asked.
        url: String,
        /// For how long.
        seconds: u64,
    },
    /// The vendor has nothing, or refuses.
    #[error("{url} answered with status {status}")]
    Status {
        /// Who was asked.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The answer is not what the vendor's interface describes.
    #[error("the vendor's answer is not what its interface describes: {what}")]
    Answer {
        /// What is wrong.
        what: String,
    },
    /// A kind of request that is not known here.
    #[error("no vendor is known for this evidence")]
    Unknown,
    /// It could not be kept.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl FetchError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Http(_) => "collateral.network",
            Self::Busy { .. } => "collateral.busy",
            Self::Status { .. } => "collateral.status",
            Self::Answer { .. } => "collateral.answer",
            Self::Unknown => "collateral.evidence",
            Self::Cache(error) => error.code(),
        }
    }
}

/// When each host was asked last.
const NOTES: &str = "asked.json";

/// Between two requests to one host.
const GAP: Duration = Duration::from_secs(1);

/// Requests for one thing, the first included.
const TRIES_MAX: u32 = 4;

const BACK_OFF_FIRST: Duration = Duration::from_secs(2);

/// A host that wants more is not waited for.
const BACK_OFF_LONGEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// A vendor with answers in stock, and a clock that only waiting moves.
    #[derive(Default)]
    struct Vendor {
        answers: RefCell<Vec<Answer>>,
        now_ms: Cell<u64>,
        pauses: RefCell<Vec<Duration>>,
    }

    impl Vendor {
        fn with(answers: Vec<Answer>) -> Self {
            let vendor = Self { answers: RefCell::new(answers), ..Self::default() };
            vendor.now_ms.set(1_000_000);
            vendor
        }
    }

    impl Http for Vendor {
        fn get(&self, url: &Url) -> Result<Answer, HttpError> {
            let mut answers = self.answers.borrow_mut();
            match answers.is_empty() {
                true => Err(HttpError { url: url.to_string(), cause: "nobody there".into() }),
                false => Ok(answers.remove(0)),
            }
        }
    }

    impl Pause for Vendor {
        fn now_ms(&self) -> u64 {
            self.now_ms.get()
        }

        fn pause(&self, time: Duration) {
            self.pauses.borrow_mut().push(time);
            self.now_ms.set(self.now_ms.get() + u64::try_from(time.as_millis()).unwrap());
        }
    }

    fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Answer { status, headers, body: body.to_vec() }
    }

    fn ok(body: &[u8]) -> Answer {
        answer(200, &[], body)
    }

    fn turin() -> EndorsementRequest {
        EndorsementRequest::Snp {
            product: Product::Turin,
            hardware_id: vec![0xAB; 8],
            tcb: TcbParts { fmc: Some(1), bootloader: 1, tee: 1, snp: 4, microcode: 81 },
        }
    }

    fn run(
        vendor: &Vendor,
        request: &EndorsementRequest,
    ) -> (Result<Fetched, FetchError>, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path().to_owned());
        (fetch(request, &Bases::default(), &cache, vendor, vendor), directory)
    }

    #[test]
    fn amd_is_asked_for_the_chip_at_its_tcb_and_for_the_revocation_list_with_a_gap_between() {
        let vendor = Vendor::with(vec![ok(b"vek"), ok(b"crl")]);

        let (fetched, directory) = run(&vendor, &turin());
        let fetched = fetched.unwrap();

        assert_eq!(
            fetched.asked,
            [
                "https://kdsintf.amd.com/vcek/v1/Turin/abababababababab?fmcSPL=01&blSPL=01&teeSPL=01&snpSPL=04&ucodeSPL=81",
                "https://kdsintf.amd.com/vcek/v1/Turin/crl",
            ]
        );
        assert_eq!(*vendor.pauses.borrow(), [GAP]);
        let cache = Cache::new(directory.path().to_owned());
        assert_eq!(cache.find(&turin()).unwrap(), fetched.endorsements);
    }

    #[test]
    fn a_host_that_another_process_asked_just_now_is_left_alone_for_the_rest_of_the_gap() {
        let vendor = Vendor::with(vec![ok(b"vek"), ok(b"crl"), ok(b"vek"), ok(b"crl")]);
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path().to_owned());
        for _ in 0..2 {
            fetch(&turin(), &Bases::default(), &cache, &vendor, &vendor).unwrap();
        }

        assert_eq!(*vendor.pauses.borrow(), [GAP; 3]);
    }

    #[test]
    fn a_vendor_that_wants_to_be_left_alone_is_for_as_long_as_it_says() {
        let busy = answer(429, &[("retry-after", "7")], b"");
        let vendor = Vendor::with(vec![busy, answer(503, &[], b""), ok(b"vek"), ok(b"crl")]);

        run(&vendor, &turin()).0.unwrap();

        let pauses = vendor.pauses.borrow();
        assert_eq!(pauses[0], Duration::from_secs(7));
        assert_eq!(pauses[1], Duration::from_secs(4));
    }

    #[test]
    fn a_vendor_that_is_busy_for_long_or_for_ever_or_has_nothing_is_an_error_by_name() {
        let long = Vendor::with(vec![answer(429, &[("retry-after", "3600")], b"")]);
        assert_eq!(run(&long, &turin()).0.unwrap_err().code(), "collateral.busy");
        let ever = Vendor::with(vec![answer(429, &[], b""); 9]);
        assert_eq!(run(&ever, &turin()).0.unwrap_err().code(), "collateral.busy");
        assert_eq!(ever.answers.borrow().len(), 9 - 4);
        let nothing = Vendor::with(vec![answer(404, &[], b"no")]);
        assert_eq!(run(&nothing, &turin()).0.unwrap_err().code(), "collateral.status");
        let empty = Vendor::with(vec![ok(b"")]);
        assert_eq!(run(&empty, &turin()).0.unwrap_err().code(), "collateral.status");
        let silent = Vendor::with(vec![]);
        assert_eq!(run(&silent, &turin()).0.unwrap_err().code(), "collateral.network");
    }

    const PEM: &str = "-----BEGIN%20CERTIFICATE-----%0AAA%3D%3D%0A-----END%20CERTIFICATE-----%0A";

    fn intel(tcb_body: &str) -> Vec<Answer> {
        let signature = "ab".repeat(64);
        let identity =
            format!(r#"{{"enclaveIdentity":{{"id" : "TD_QE"}},"signature":"{signature}"}}"#);
        vec![
            answer(200, &[("sgx-pck-crl-issuer-chain", PEM)], b"pckcrl"),
            answer(200, &[("tcb-info-issuer-chain", PEM)], tcb_body.as_bytes()),
            answer(200, &[("sgx-enclave-identity-issuer-chain", PEM)], identity.as_bytes()),
            ok(b"rootcrl"),
        ]
    }

    #[test]
    fn what_intel_signed_is_kept_as_it_is_spelled() {
        let tcb = format!(
            r#"{{"tcbInfo":{{"id":"TDX",  "version":3}},"signature":"{}"}}"#,
            "cd".repeat(64)
        );
        let vendor = Vendor::with(intel(&tcb));
        let request = EndorsementRequest::Tdx { fmspc: [0xB0; 6], ca: PckCa::Platform };

        let fetched = run(&vendor, &request).0.unwrap();

        assert!(fetched.asked[1].ends_with("/tdx/certification/v4/tcb?fmspc=B0B0B0B0B0B0"));
        assert!(fetched.asked[0].ends_with("pckcrl?ca=platform&encoding=der"));
        let text = fetched.endorsements.tdx.unwrap().collateral;
        let collateral: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(collateral["tcb_info"], r#"{"id":"TDX",  "version":3}"#);
        assert_eq!(collateral["qe_identity"], r#"{"id" : "TD_QE"}"#);
        assert_eq!(collateral["root_ca_crl"], hex::encode(b"rootcrl"));
        let chain = collateral["pck_crl_issuer_chain"].as_str().unwrap();
        assert_eq!(chain, "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n");
    }

    #[test]
    fn an_answer_that_is_not_what_intel_describes_is_refused_and_nothing_is_kept() {
        let request = EndorsementRequest::Tdx { fmspc: [0xB0; 6], ca: PckCa::Processor };
        for body in ["{}", "nonsense", r#"{"tcbInfo":{},"signature":"ab"}"#] {
            let vendor = Vendor::with(intel(body));
            let (fetched, directory) = run(&vendor, &request);
            assert_eq!(fetched.unwrap_err().code(), "collateral.answer", "{body}");
            let cache = Cache::new(directory.path().to_owned());
            assert_eq!(cache.find(&request).unwrap(), Endorsements::default());
        }
    }
}
