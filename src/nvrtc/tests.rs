use super::*;

#[test]
fn an_empty_search_finds_nothing_and_says_where_it_looked() {
    let error = Nvrtc::find(&SearchPath::only("/nonexistent"), None).unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
}
