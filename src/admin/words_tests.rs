use proptest::prelude::*;

use super::*;

fn field(name: &str, comparison: Comparison, value: &str) -> Filter {
    Filter::Field(name.to_owned(), Condition::Is(comparison, value.to_owned()))
}

fn named(name: &str) -> Filter {
    field("name", Comparison::Equal, name)
}

#[test]
fn a_bare_word_is_a_name_and_nothing_is_everything() {
    assert_eq!(filter(" desk "), Ok(named("desk")));
    assert_eq!(filter("alice@school/my desk"), Ok(named("alice@school/my desk")));
    assert_eq!(filter("  "), Ok(Filter::All(Vec::new())));
    assert_eq!(filters(&["a", "b=1"]), Ok(Filter::All(vec![named("a"), field("b", Comparison::Equal, "1")])));
}

#[test]
fn every_comparison_is_understood() {
    for (sign, comparison) in COMPARISONS {
        assert_eq!(filter(&format!("a{sign}b")), Ok(field("a", comparison, "b")), "{sign}");
        assert_eq!(filter(&format!(" a {sign} b ")), Ok(field("a", comparison, "b")), "{sign} with blanks");
    }
    assert_eq!(filter("host="), Ok(field("host", Comparison::Equal, "")), "nothing is there");
}

#[test]
fn and_binds_closer_than_or_unless_there_are_parentheses() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    assert_eq!(filter("a;b,c"), Ok(Filter::Any(vec![a.clone(), Filter::All(vec![b.clone(), c.clone()])])));
    assert_eq!(filter("(a;b),!c"), Ok(Filter::All(vec![Filter::Any(vec![a, b]), Filter::Not(Box::new(c))])));
}

#[test]
fn lists_and_ranges_are_understood() {
    let list = Condition::OneOf(vec!["1".to_owned(), "a b".to_owned()]);
    assert_eq!(filter("id=[1, 'a b']"), Ok(Filter::Field("id".to_owned(), list.clone())));
    assert_eq!(filter("id!=[1,a b]"), Ok(Filter::Not(Box::new(Filter::Field("id".to_owned(), list)))));
    let range = Condition::Between("1".to_owned(), "3".to_owned());
    assert_eq!(filter("id=[1:3]"), Ok(Filter::Field("id".to_owned(), range)));
}

#[test]
fn quotes_and_backslashes_take_the_meaning_from_signs() {
    assert_eq!(filter(r#"name="a,b;(c)""#), Ok(field("name", Comparison::Equal, "a,b;(c)")));
    assert_eq!(filter(r"name=a\,b\\ "), Ok(field("name", Comparison::Equal, r"a,b\")));
    assert_eq!(filter("name='it\\'s'"), Ok(field("name", Comparison::Equal, "it's")));
}

#[test]
fn what_cannot_be_understood_is_pointed_at() {
    for (text, rest, expected) in [
        ("a=1,", "", "a name, or a field and its value,"),
        ("(a=1", "", "“)”"),
        ("a>", "", "a value"),
        ("a=[1", "", "“,” or “]”"),
        ("a=[1:2,3]", ",3]", "“]”"),
        ("a=1)", ")", "“,” or “;”"),
        ("a='b", "'b", "the quote that ends it"),
        ("=1", "=1", "a name, or a field and its value,"),
    ] {
        let text = text.to_owned();
        assert_eq!(filter(&text), Err(Misspelt { text, rest: rest.to_owned(), expected }));
    }
    let deep = "(".repeat(100_000);
    assert_eq!(filter(&deep).unwrap_err().expected, "something less nested");
    assert_eq!(filter("a=1)").unwrap_err().to_string(), "“a=1)” cannot be understood: “,” or “;” is expected at “)”");
}

#[test]
fn changes_keep_their_order_and_signs_of_filters_in_values() {
    let one = |text: &str| Value::One(text.to_owned());
    assert_eq!(
        changes("name=x, description=a (b); c=d!, tags=[a,b],empty=,none=[]"),
        Ok(vec![
            ("name".to_owned(), one("x")),
            ("description".to_owned(), one("a (b); c=d!")),
            ("tags".to_owned(), Value::Many(vec!["a".to_owned(), "b".to_owned()])),
            ("empty".to_owned(), one("")),
            ("none".to_owned(), Value::Many(Vec::new())),
        ])
    );
    assert_eq!(changes("a=1,a=2").unwrap_err().expected, "a key that is not yet set");
    assert_eq!(changes("a").unwrap_err().expected, "“=”");
    assert_eq!(changes("a=1,").unwrap_err().expected, "a key");
}

#[test]
fn what_nobody_can_write_is_refused_and_means_not_everything() {
    assert_eq!(text(&Filter::All(vec![Filter::All(Vec::new())])), "");
    for impossible in
        [Filter::Any(Vec::new()), Filter::Not(Box::new(Filter::All(Vec::new()))), field("a", Comparison::Like, "")]
    {
        assert!(filter(&text(&impossible)).is_err(), "{impossible:?}");
    }
}

#[test]
fn a_filter_is_read_from_what_is_written_of_it() {
    for said in [
        "",
        "desk",
        "alice@school/my desk",
        "a;b,c",
        "(a;b),!c",
        "id=[1, 'a b']",
        "id!=[1,2]",
        "id=[1:3]",
        r#"name="a,b;(c)""#,
        "name='it\\'s'",
        "host=",
        "host!=",
        "ip>10.0.0.0,tag~d%,state<>running",
        "!(a=1,b>=2;c<=3)",
        "'my field'<'x y'",
    ] {
        let meant = filter(said).unwrap();
        assert_eq!(filter(&text(&meant)), Ok(meant), "{said}: {}", text(&filter(said).unwrap()));
    }
    let several = filters(&["a;b", "c", ""]).unwrap();
    assert_eq!(filter(&text(&several)), filter("(a;b),c"));
}

proptest! {
    #[test]
    fn whatever_is_understood_is_written_so_that_it_means_the_same(said in "[a-c(),;!=~<>'\\[\\]: \\\\]{0,12}") {
        if let Ok(meant) = filter(&said) {
            prop_assert_eq!(filter(&text(&meant)), Ok(meant));
        }
    }

    #[test]
    fn whatever_is_typed_is_understood_or_refused(text in ".*") {
        let _ = filter(&text);
        let _ = changes(&text);
    }

    #[test]
    fn any_value_can_be_said_in_quotes(value in ".+") {
        let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
        prop_assert_eq!(filter(&format!("a='{quoted}'")), Ok(field("a", Comparison::Equal, &value)));
        prop_assert_eq!(changes(&format!("a='{quoted}'")), Ok(vec![("a".to_owned(), Value::One(value))]));
    }
}
