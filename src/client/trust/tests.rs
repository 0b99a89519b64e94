use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{ServerName, UnixTime};

use super::{examine::examine, *};

const SERVER: &str = "desk.example:8443";

fn look(leaf: &CertificateDer<'_>, name: &str, roots: &RootCertStore, pinned: bool) -> Finding {
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    examine(leaf, &[], &ServerName::try_from(name).unwrap(), UnixTime::now(), (roots, pinned), &algorithms)
}

fn own(params: CertificateParams) -> CertificateDer<'static> {
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
}

fn params() -> CertificateParams {
    CertificateParams::new(["desk.example".to_owned()]).unwrap()
}

fn numbers(errors: &[u32]) -> ErrorNumbers {
    errors.iter().copied().collect()
}

fn trust(directory: &Path) -> Trust {
    Trust::load(Some(directory), &[]).unwrap()
}

fn finding(fingerprint: &str, errors: &[u32]) -> Finding {
    Finding { fingerprint: fingerprint.to_owned(), subject: "CN=desk".to_owned(), errors: numbers(errors) }
}

#[test]
fn everything_that_is_wrong_is_found_at_once() {
    let none = RootCertStore::empty();
    assert_eq!(look(&own(params()), "desk.example", &none, false).errors, numbers(&[18]));
    let mut old = params();
    old.not_before = date_time_ymd(2001, 1, 1);
    old.not_after = date_time_ymd(2002, 1, 1);
    assert_eq!(look(&own(old), "other.example", &none, false).errors, numbers(&[10, 18, 1001]));
    let mut early = params();
    early.not_before = date_time_ymd(2401, 1, 1);
    early.not_after = date_time_ymd(2402, 1, 1);
    assert_eq!(look(&own(early), "desk.example", &none, false).errors, numbers(&[9, 18]));
    let mut signing = params();
    signing.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(look(&own(signing), "desk.example", &none, false).errors, numbers(&[18]));
    assert_eq!(look(&CertificateDer::from(&b"junk"[..]), "desk.example", &none, false).errors, numbers(&[1]));
}

#[test]
fn a_certificate_from_a_known_authority_is_trusted_and_from_another_not() {
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "Our authority");
    let root = authority.self_signed(&key).unwrap();
    let leaf = params().signed_by(&KeyPair::generate().unwrap(), &Issuer::new(authority, key)).unwrap();
    let mut roots = RootCertStore::empty();
    assert_eq!(look(leaf.der(), "desk.example", &roots, false).errors, numbers(&[20]));
    roots.add(root.der().clone()).unwrap();
    assert_eq!(look(leaf.der(), "desk.example", &roots, false).errors, numbers(&[]));
    assert_eq!(look(leaf.der(), "evil.example", &roots, false).errors, numbers(&[1001]));
}

#[test]
fn a_pinned_certificate_needs_no_issuer_but_a_name_and_a_date() {
    let mut signing = params();
    signing.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    signing.not_after = date_time_ymd(2002, 1, 1);
    signing.not_before = date_time_ymd(2001, 1, 1);
    let finding = look(&own(signing), "other.example", &RootCertStore::empty(), true);
    assert_eq!(finding.errors, numbers(&[10, 1001]));
}

#[test]
fn a_certificate_given_as_authority_is_trusted_by_itself() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("node.pem");
    let certificate = params().self_signed(&KeyPair::generate().unwrap()).unwrap();
    fs::write(&file, certificate.pem()).unwrap();
    let trust = Trust::load(None, std::slice::from_ref(&file)).unwrap();
    assert!(trust.pinned.contains(&fingerprint(certificate.der())));
    fs::write(&file, "nothing").unwrap();
    let refused = Trust::load(None, std::slice::from_ref(&file));
    assert!(matches!(refused, Err(TrustError::NoCertificate { .. })), "{refused:?}");
}

#[test]
fn an_exception_covers_only_its_errors() {
    let home = tempfile::tempdir().unwrap();
    let ours = trust(home.path());
    assert!(matches!(ours.judge(SERVER, &finding("aa", &[18])), Err(Refusal::Questionable(_))));
    ours.accept(SERVER, &finding("aa", &[18, 1001]), Scope::Always).unwrap();

    let later = trust(home.path());
    assert_eq!(later.judge(SERVER, &finding("aa", &[18])), Ok(()));
    assert_eq!(later.judge("elsewhere:1", &finding("aa", &[18, 1001])), Ok(()));
    assert!(matches!(later.judge(SERVER, &finding("aa", &[10, 18])), Err(Refusal::Questionable(_))));
}

#[test]
fn a_changed_certificate_is_no_question() {
    let home = tempfile::tempdir().unwrap();
    trust(home.path()).accept(SERVER, &finding("aa", &[18]), Scope::Always).unwrap();
    let later = trust(home.path());
    let refusal = later.judge(SERVER, &finding("bb", &[18])).unwrap_err();
    assert!(matches!(refusal, Refusal::Changed { .. }), "{refusal}");
    assert_eq!(later.judge(SERVER, &finding("bb", &[])), Ok(()), "one from an authority needs no exception");
}

#[test]
fn what_is_accepted_once_is_forgotten_with_the_process() {
    let home = tempfile::tempdir().unwrap();
    let ours = trust(home.path());
    ours.accept(SERVER, &finding("aa", &[18]), Scope::Once).unwrap();
    assert_eq!(ours.judge(SERVER, &finding("aa", &[18])), Ok(()));
    assert!(trust(home.path()).judge(SERVER, &finding("aa", &[18])).is_err());
}

#[test]
fn the_file_has_the_classic_form_and_keeps_what_others_wrote() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(EXCEPTIONS_FILE);
    let classic =
        r#"{"sha256$aa": {"algo": "sha256", "fingerprint": "aa", "description": "CN=x", "errors": [20], "x": 1}}"#;
    fs::write(&file, classic).unwrap();
    let ours = trust(home.path());
    assert_eq!(ours.judge(SERVER, &finding("aa", &[20])), Ok(()), "what a classic client accepted is accepted");
    ours.accept(SERVER, &finding("aa", &[18]), Scope::Always).unwrap();
    ours.accept(SERVER, &finding("bb", &[18]), Scope::Always).unwrap();
    let written: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let expected = serde_json::json!({
        "sha256$aa": {
            "algo": "sha256", "fingerprint": "aa", "description": "CN=x", "errors": [18, 20], "servers": [SERVER], "x": 1
        },
        "sha256$bb": {
            "algo": "sha256", "fingerprint": "bb", "description": "CN=desk", "errors": [18], "servers": [SERVER]
        },
    });
    assert_eq!(written, expected);
}

#[test]
fn a_damaged_file_is_an_error_and_not_an_empty_one() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join(EXCEPTIONS_FILE), "{").unwrap();
    let refused = Trust::load(Some(home.path()), &[]);
    assert!(matches!(refused, Err(TrustError::Damaged { .. })), "{refused:?}");
}
