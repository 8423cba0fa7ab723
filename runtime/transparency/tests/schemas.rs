//! The published schemas, held to the frozen bundles.

use std::fs;
use std::path::Path;
use std::process::Command;

use evanesce_transparency::bundle::Base64Bytes;

#[test]
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn every_frozen_statement_fits_its_published_schema_and_a_spoilt_one_does_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = Command::new("python3").args(["-c", "import jsonschema"]).output();
    if !python.is_ok_and(|done| done.status.success()) {
        eprintln!("SKIPPED: python3 with jsonschema (Debian's python3-jsonschema) is not here");
        return;
    }
    let kinds = [
        ("signature", "signature-v1"),
        ("receipt", "receipt-v1"),
        ("key-rotation", "key-rotation-v1"),
        ("notary-rotation", "notary-rotation-v1"),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (kind, schema) in kinds {
        let bundle = root.join(format!("tests/samples/{kind}.sigstore.json"));
        let bundle: serde_json::Value = serde_json::from_slice(&fs::read(bundle).unwrap()).unwrap();
        let payload = bundle["dsseEnvelope"]["payload"].clone();
        let payload: Base64Bytes = serde_json::from_value(payload).unwrap();
        let schema = root.join(format!("../../docs/formats/schemas/{schema}.json"));
        let fits = |statement: &[u8]| {
            let file = dir.path().join("statement.json");
            fs::write(&file, statement).unwrap();
            Command::new("python3").args(["-c", CHECK]).arg(&schema).arg(file).status().unwrap()
        };
        assert!(fits(&payload.0).success(), "{kind}");
        let text = String::from_utf8(payload.0).unwrap();
        let spoilt = text.replacen("\"predicate\":{\"", "\"predicate\":{\"x-", 1);
        assert_ne!(spoilt, text);
        assert!(!fits(spoilt.as_bytes()).success(), "{kind}: a member is missing and nobody minds");
    }
}

const CHECK: &str = "\
import json, sys, jsonschema
schema, statement = (json.load(open(name)) for name in sys.argv[1:])
jsonschema.Draft202012Validator.check_schema(schema)
sys.exit(not jsonschema.Draft202012Validator(schema).is_valid(statement))";
