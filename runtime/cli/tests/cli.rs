//! The command line as data: one file a case, for what needs no worker.

#[test]
fn cases_end_with_the_status_and_the_words_that_they_name() {
    trycmd::TestCases::new().case("tests/cases/*.toml");
}
