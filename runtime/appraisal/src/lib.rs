//! Whether evidence of a confidential machine can be trusted, and why.
#![forbid(unsafe_code)]
