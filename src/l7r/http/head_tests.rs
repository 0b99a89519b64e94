use proptest::prelude::*;

use super::*;

const LIMIT: usize = 128 * 1024;

fn complete(bytes: &[u8]) -> (Request, usize) {
    match parse(bytes, LIMIT).unwrap() {
        Parsed::Complete { request, length } => (request, length),
        Parsed::Incomplete => panic!("incomplete: {:?}", String::from_utf8_lossy(bytes)),
    }
}

fn refused(bytes: &[u8]) -> Reject {
    match parse(bytes, LIMIT) {
        Err(reject) => reject,
        Ok(parsed) => panic!("{parsed:?}: {:?}", String::from_utf8_lossy(bytes)),
    }
}

#[test]
fn line_ends_may_be_bare_and_mixed() {
    for head in [
        "GET /qvd/ping HTTP/1.1\r\nA: 1\r\n\r\n",
        "GET /qvd/ping HTTP/1.1\nA: 1\n\n",
        "GET /qvd/ping HTTP/1.1\r\nA: 1\n\r\n",
        "\r\n\n\r\nGET /qvd/ping HTTP/1.1\nA:1\r\n\n",
    ] {
        let (request, length) = complete(head.as_bytes());
        assert_eq!((request.method.as_str(), request.path.as_str(), length), ("GET", "/qvd/ping", head.len()));
        assert_eq!(request.header("a"), Some("1"));
    }
}

#[test]
fn raw_blanks_belong_to_the_target() {
    let head = b"GET /qvd/connect_to_vm?id=1&qvd.client.nxagent.extra_args=-a HTTP/ -b  c&k=pc105/en HTTP/1.1\n\n";
    let (request, _) = complete(head);
    assert_eq!(request.path, "/qvd/connect_to_vm");
    assert_eq!(request.query.get("qvd.client.nxagent.extra_args"), Some("-a HTTP/ -b  c"));
    assert_eq!(request.query.get("k"), Some("pc105/en"));
}

#[test]
fn bytes_behind_the_head_are_not_touched() {
    let stream = b"GET /a HTTP/1.1\n\nNXPROXY-3.5.0";
    let (_, length) = complete(stream);
    assert_eq!(&stream[length..], b"NXPROXY-3.5.0");
}

#[test]
fn only_version_1_1_is_spoken() {
    for line in ["GET / HTTP/1.0", "GET / HTTP/2.0", "GET / HTTP/1.10", "GET /", "GET / HTTP/", "GET /xHTTP/1.1"] {
        assert_eq!(refused(format!("{line}\r\n").as_bytes()), Reject::Version, "{line}");
    }
}

#[test]
fn a_bad_line_is_refused_before_the_head_is_complete() {
    for line in ["garbage", " GET / HTTP/1.1", "G\u{1}T / HTTP/1.1", "GET  HTTP/1.1", "GET HTTP/1.1", "(x) / HTTP/1.1"]
    {
        assert_eq!(refused(format!("{line}\r\n").as_bytes()), Reject::RequestLine, "{line}");
    }
    for line in ["nocolon", " continues nothing", ": empty", "A B: c", "A : c", "A: \u{0}"] {
        assert_eq!(refused(format!("GET / HTTP/1.1\r\n{line}\r\n").as_bytes()), Reject::HeaderLine, "{line:?}");
    }
}

#[test]
fn a_line_that_starts_with_white_space_continues_the_header() {
    let (request, _) = complete(b"GET / HTTP/1.1\r\nA: one\r\n  two \r\n\tthree\r\n \r\nB:  x  \r\n\r\n");
    assert_eq!(request.header("A"), Some("one two three"));
    assert_eq!(request.header("B"), Some("x"));
}

#[test]
fn the_limit_leaves_room_for_what_it_says_and_no_more() {
    let head = |size: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(size - 23));
    assert!(matches!(parse(head(1024).as_bytes(), 1024), Ok(Parsed::Complete { length: 1024, .. })));
    assert_eq!(parse(head(1025).as_bytes(), 1024).err(), Some(Reject::TooLarge { limit: 1024 }));
    assert_eq!(parse(&[b'x'; 1024], 1024).err(), Some(Reject::TooLarge { limit: 1024 }));
    assert_eq!(parse(&[b'\n'; 1024], 1024).err(), Some(Reject::TooLarge { limit: 1024 }));
    assert!(matches!(parse(&[b'x'; 1023], 1024), Ok(Parsed::Incomplete)));
}

/// Every request of a stream and how it ends, when the bytes arrive in these pieces.
fn read_all(stream: &[u8], cuts: &[usize]) -> (Vec<Request>, Option<Reject>, usize) {
    let mut requests = Vec::new();
    let mut parser = HeadParser::new(LIMIT);
    let mut start = 0;
    for &cut in cuts.iter().chain([&stream.len()]) {
        while start < cut {
            match parser.advance(&stream[start..cut]) {
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Complete { request, length }) => {
                    requests.push(request);
                    start += length;
                    parser = HeadParser::new(LIMIT);
                }
                Err(reject) => return (requests, Some(reject), start),
            }
        }
    }
    (requests, None, start)
}

fn lines() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        4 => Just("GET /qvd/list_of_vm? HTTP/1.1".to_owned()),
        2 => "GET /qvd/connect_to_vm\\?id=[0-9]{1,3}&[a-z.]{1,9}=[ -~]{0,12} HTTP/1.1",
        4 => "[A-Za-z-]{1,12}: ?[ -~]{0,20}",
        4 => Just(String::new()),
        1 => "[ \t]{1,3}[a-z]{0,5}",
        1 => "[ -~]{0,20}",
    ];
    prop::collection::vec((line, prop::bool::ANY), 0..30)
        .prop_map(|lines| lines.into_iter().map(|(line, bare)| line + if bare { "\n" } else { "\r\n" }).collect())
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), limit in 0usize..2000) {
        if let Ok(Parsed::Complete { request, length }) = parse(&bytes, limit) {
            prop_assert!(length <= bytes.len() && length <= limit);
            let _ = (request.credentials(), request.auth_variables(), request.wants_tunnel());
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "(GET|é) [^\n]{0,40} ?HTTP/1.1\r?\n([^\n]{0,30}\r?\n){0,5}\n") {
        if let Ok(Parsed::Complete { request, .. }) = parse(text.as_bytes(), LIMIT) {
            let _ = (request.credentials(), request.auth_variables(), request.wants_tunnel());
        }
    }

    #[test]
    fn it_does_not_matter_how_a_stream_is_cut(
        stream in lines(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let whole = read_all(stream.as_bytes(), &[]);
        prop_assert_eq!(&read_all(stream.as_bytes(), &cuts), &whole);
        let every: Vec<usize> = (1..stream.len()).collect();
        prop_assert_eq!(&read_all(stream.as_bytes(), &every), &whole);
    }
}
