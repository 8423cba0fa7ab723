//! A TDX machine that does not exist, in the shape of Intel's: it signs quotes like one, for as long as
//! anybody will run these tests.

use std::sync::Mutex;

use evanesce_appraisal::{EndorsementRequest, Evidence, wanted};
use evanesce_protocol::evidence::provider;

use self::setup::{REPORT_DATA, Setup};
use crate::der;
use crate::release::pair::{Confidential, Side};

#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../../runtime/appraisal/tests/tdx_rules/pki.rs"]
mod pki;
#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../../runtime/appraisal/tests/tdx_rules/setup.rs"]
mod setup;

/// Its asker keeps the collateral, and sends it along.
pub(crate) fn machine() -> Confidential {
    let mut setup = Setup::v4();
    for list in [&mut setup.root_crl, &mut setup.pck_crl] {
        list.next_update = "450101";
    }
    for signed in [&mut setup.tcb_info, &mut setup.identity] {
        signed["nextUpdate"] = "2045-01-01T00:00:00Z".into();
    }
    let roots = setup.root.pem();
    let collateral = setup.collateral();
    let kept =
        match wanted(Evidence::Tdx { quote: &setup.quote(), collateral: None }, None).unwrap() {
            EndorsementRequest::Tdx { fmspc, ca } => {
                format!("tdx/{}-{}.json", hex::encode(fmspc), ca.name())
            }
            other => panic!("a quote that wants {other:?}"),
        };
    let setup = Mutex::new(setup);
    Confidential {
        provider: provider::TDX,
        auxblob: None,
        firmware: Box::new(move |report_data| {
            let mut setup = setup.lock().unwrap();
            setup.td[REPORT_DATA..].copy_from_slice(report_data);
            setup.quote()
        }),
        roots,
        kept: (Side::Asker, kept, collateral),
    }
}
