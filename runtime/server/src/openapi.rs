//! The document that describes the API, and the tests that tie it to the code.

/// OpenAPI 3.1.
pub(crate) const DOCUMENT: &str = include_str!("../openapi.json");

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use evanesce_protocol::PublicKey;
    use serde_json::Value;

    use super::*;
    use crate::api::{EvidenceRequest, ROUTES, SignAnswer, SignRequest};
    use crate::keys::KeyEnd;
    use crate::policy::{Rate, Refusal};
    use crate::problem::Problem;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    fn operations() -> BTreeMap<(String, String), Value> {
        let document = document();
        let paths = document["paths"].as_object().unwrap().clone();
        let of_path = |(path, methods): (String, Value)| {
            let methods = methods.as_object().unwrap().clone();
            methods.into_iter().map(move |(method, operation)| ((method, path.clone()), operation))
        };
        paths.into_iter().flat_map(of_path).collect()
    }

    #[test]
    fn the_document_has_each_route_of_the_code_and_no_other() {
        let described: BTreeSet<_> = operations()
            .into_iter()
            .map(|((method, path), operation)| {
                (method, path, operation["operationId"].as_str().unwrap().to_owned())
            })
            .collect();
        let routed: BTreeSet<_> = ROUTES
            .iter()
            .map(|(method, path, name)| (method.to_string(), path.to_string(), name.to_string()))
            .collect();
        assert_eq!(described, routed);
    }

    fn end() -> KeyEnd {
        KeyEnd { reason: "r".into(), fate: Some("destroyed".into()), receipt_row: Some(1) }
    }

    /// Each problem that an operation can have; all others are of the connection or of no path.
    fn problems() -> Vec<Problem> {
        let (rate, retry_after) = (Rate { per_second: 1, burst: 1 }, Duration::from_millis(1));
        vec![
            Problem::Malformed(String::new()),
            Problem::NotJson,
            Problem::TooLong,
            Problem::TooSlow,
            Problem::UnknownClient,
            Problem::Refused(Refusal::NoSuchKey),
            Problem::Refused(Refusal::NotGranted { missing: "digest".into() }),
            Problem::Refused(Refusal::RateExceeded { rate, retry_after }),
            Problem::Refused(Refusal::BudgetSpent { budget: 1 }),
            Problem::NoEvidence,
            Problem::EvidenceFailed(String::new()),
            Problem::KeyEnded(end()),
            Problem::Busy,
            Problem::TimedOut,
            Problem::WorkerRefused,
        ]
    }

    #[test]
    fn each_problem_stands_with_its_own_status_and_each_described_code_is_of_a_problem() {
        let mut described = BTreeSet::new();
        for operation in operations().values() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let schema = &response["content"]["application/problem+json"]["schema"];
                let codes = schema["allOf"][1]["properties"]["code"]["enum"].as_array();
                for code in codes.into_iter().flatten() {
                    described.insert((status.clone(), code.as_str().unwrap().to_owned()));
                }
            }
        }
        let made: BTreeSet<_> = problems()
            .iter()
            .map(|problem| (problem.status().as_u16().to_string(), problem.code().to_owned()))
            .collect();
        assert_eq!(described, made);
    }

    #[test]
    fn each_operation_describes_what_the_rate_and_the_deadline_answer() {
        for ((_, path), operation) in operations() {
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.contains_key("504") && responses.contains_key("403"), "{path}");
            let is_limited = path.starts_with("/v1/") || path == "/metrics";
            assert_eq!(responses.contains_key("429"), is_limited, "{path}");
            let has_body = operation.get("requestBody").is_some();
            for status in ["400", "408", "413", "415"] {
                assert_eq!(responses.contains_key(status), has_body, "{path} {status}");
            }
        }
    }

    fn fields(value: &Value) -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    }

    fn properties(schema: &Value) -> BTreeSet<String> {
        fields(&schema["properties"])
    }

    #[test]
    fn what_is_read_and_written_has_the_fields_that_are_described() {
        let document = document();
        let schemas = &document["components"]["schemas"];
        let value = |serialized: Result<Value, _>| fields(&serialized.unwrap());
        let text = || "x".to_owned();

        let request =
            SignRequest { digest: text(), namespace: Some(text()), context: Some(text()) };
        let kinds = schemas["SignRequest"]["oneOf"].as_array().unwrap();
        let of_kinds: BTreeSet<_> = kinds.iter().flat_map(properties).collect();
        assert_eq!(value(serde_json::to_value(&request)), of_kinds);

        let answer = SignAnswer {
            algorithm: text(),
            digest: text(),
            namespace: Some(text()),
            context: Some(text()),
            signature: text(),
            public_key: PublicKey::from_bytes([1; 32]).to_string(),
            certificate: text(),
        };
        assert_eq!(value(serde_json::to_value(&answer)), properties(&schemas["Signature"]));

        let nonce = EvidenceRequest { nonce: text() };
        assert_eq!(value(serde_json::to_value(&nonce)), properties(&schemas["EvidenceRequest"]));
        assert_eq!(value(serde_json::to_value(end())), properties(&schemas["KeyEnd"]));
    }
}
