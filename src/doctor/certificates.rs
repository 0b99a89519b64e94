//! The certificates that a node shows and trusts, and until when they hold.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_cert::{Certificate, der::Decode};

use crate::{
    certificate::Identity,
    db::Certificates as Stored,
    l7r::tls::Clients,
    model::{
        config::{Config, keys},
        in_one_line,
    },
};

use super::finding::{Finding, Grade, Subject};

/// Time to get another one.
const SOON: Duration = Duration::from_secs(21 * 24 * 3600);

const SHOWN: Subject = Subject { name: "router's", why: "Clients refuse a server whose certificate does not hold." };
const OF_CLIENTS: Subject =
    Subject { name: "of clients", why: "Only clients with a certificate of this authority are let in." };
const OF_DATABASE: Subject =
    Subject { name: "of the database", why: "The node trusts a database whose certificate is of this authority." };

/// When certificates hold, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub from: Duration,
    pub until: Duration,
}

/// The certificate that a router shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Shown {
    /// None: users connect without TLS, or to something before the router.
    NoTls,
    /// It is made at the router's first start.
    #[default]
    ToBeMade,
    /// That of all routers, kept in the database.
    OfAll(Result<Validity, String>),
    /// The node's own, kept in files.
    Own(Result<Validity, String>),
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub shown: Shown,
    /// Authorities of clients, if there are any, and whether every client must have a certificate of theirs.
    pub of_clients: Option<Result<Validity, String>>,
    pub required: bool,
    /// Authorities of the database, if a file is configured.
    pub of_database: Option<Result<Validity, String>>,
}

/// Looks at them. `stored` is what the database has; clients may be `required` to have one.
pub fn look(config: &Config, stored: &Stored, required: bool) -> Facts {
    let validity = |identity: Identity| of(identity.chain()).ok_or_else(unreadable);
    let shown = match (&stored.certificate, &stored.key) {
        _ if !config.get(&keys::L7R_USE_SSL) => Shown::NoTls,
        (Some(certificate), Some(key)) => {
            let identity =
                Identity::from_pem((certificate.as_bytes(), "l7r.ssl.cert"), (key.as_bytes(), "l7r.ssl.key"));
            Shown::OfAll(identity.map_err(|error| in_one_line(&error)).and_then(validity))
        }
        _ => match Identity::kept(config) {
            Ok(None) => Shown::ToBeMade,
            Ok(Some(identity)) => Shown::Own(validity(identity)),
            Err(error) => Shown::Own(Err(in_one_line(&error))),
        },
    };
    let of_clients = stored
        .authorities
        .clone()
        .map(String::into_bytes)
        .or_else(|| std::fs::read(config.get(&keys::PATH_L7R_SSL_CA)).ok());
    let of_clients = match of_clients {
        Some(pem) => Some(
            Clients::from_pem((&pem, "l7r.ssl.ca"), None, required)
                .map_err(|error| in_one_line(&error))
                .and_then(|_| of_pem(&pem)),
        ),
        None => required.then(|| Err("it is missing, while l7r.client.cert.require is set".to_owned())),
    };
    let of_database = Some(config.get(&keys::DATABASE_SSLROOTCERT)).filter(|file| !file.is_empty()).map(|file| {
        std::fs::read(PathBuf::from(&file)).map_err(|error| format!("{file}: {error}")).and_then(|pem| of_pem(&pem))
    });
    Facts { shown, of_clients, required, of_database }
}

fn of_pem(pem: &[u8]) -> Result<Validity, String> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| error.to_string())?;
    of(certificates.iter().map(AsRef::as_ref)).ok_or_else(unreadable)
}

/// When all of them hold; `None` when one cannot be read or there is none.
fn of<'a>(certificates: impl Iterator<Item = &'a [u8]>) -> Option<Validity> {
    let validities = certificates.map(|der| {
        let validity = Certificate::from_der(der).ok()?.tbs_certificate.validity;
        Some(Validity { from: validity.not_before.to_unix_duration(), until: validity.not_after.to_unix_duration() })
    });
    let all = validities.collect::<Option<Vec<_>>>()?;
    Some(Validity {
        from: all.iter().map(|validity| validity.from).max()?,
        until: all.iter().map(|validity| validity.until).min()?,
    })
}

fn unreadable() -> String {
    "it holds no certificate that can be read".to_owned()
}

/// Judges them at a time, given in seconds since 1970. `file` is the node's configuration.
pub fn judge(facts: &Facts, now: Duration, file: &Path) -> Vec<Finding> {
    let store = "qvd config ssl --cert chain.pem --key key.pem";
    let mut findings = vec![match &facts.shown {
        Shown::NoTls => SHOWN.good("none: l7r.use_ssl is off"),
        Shown::ToBeMade => SHOWN.good("made when the router starts"),
        Shown::OfAll(Ok(validity)) => held(SHOWN, "that of all routers", *validity, now, store),
        Shown::Own(Ok(validity)) => held(SHOWN, "this node's own", *validity, now, store),
        Shown::OfAll(Err(why)) | Shown::Own(Err(why)) => SHOWN.bad(why, store),
    }];
    let worst = if facts.required { Grade::Bad } else { Grade::Tolerable };
    let store = "qvd config ssl --ca authorities.pem";
    findings.extend(facts.of_clients.as_ref().map(|found| match found {
        Ok(validity) => held(OF_CLIENTS, "the authority", *validity, now, store),
        Err(why) => OF_CLIENTS.graded(worst, why, store),
    }));
    let other = format!("echo 'database.sslrootcert = …' >> {}", file.display());
    findings.extend(facts.of_database.as_ref().map(|found| match found {
        Ok(validity) => held(OF_DATABASE, "the authority", *validity, now, &other),
        Err(why) => OF_DATABASE.bad(why, &other),
    }));
    findings
}

fn held(subject: Subject, what: &str, validity: Validity, now: Duration, mend: &str) -> Finding {
    let Validity { from, until } = validity;
    if now < from {
        subject.bad(format!("{what}, not valid before {}", day(from)), mend)
    } else if now > until {
        subject.bad(format!("{what}, expired on {}", day(until)), mend)
    } else if until - now < SOON {
        subject.tolerable(format!("{what}, expires on {}", day(until)), mend)
    } else {
        subject.good(format!("{what}, until {}", day(until)))
    }
}

fn day(since_1970: Duration) -> String {
    let time = i64::try_from(since_1970.as_secs()).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "a day that no calendar has".to_owned(), |time| time.strftime("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    const FILE: &str = "/etc/qvd/node.conf";

    fn grades(facts: &Facts, days: u32) -> Vec<Grade> {
        judge(facts, DAY * days, FILE.as_ref()).iter().map(|finding| finding.grade).collect()
    }

    #[test]
    fn a_certificate_is_judged_by_the_day() {
        let validity = Validity { from: DAY * 10, until: DAY * 100 };
        let facts = Facts { shown: Shown::Own(Ok(validity)), ..Facts::default() };
        use Grade::{Bad, Good, Tolerable};
        for (days, grade) in [(9, Bad), (11, Good), (78, Good), (80, Tolerable), (101, Bad)] {
            assert_eq!(grades(&facts, days), [grade], "{days}");
        }
        assert_eq!(judge(&facts, DAY * 200, FILE.as_ref())[0].found, "this node's own, expired on 1970-04-11");
        assert_eq!(grades(&Facts::default(), 1), [Good], "one is made");
    }

    #[test]
    fn authorities_that_cannot_be_used_are_bad_where_they_are_needed() {
        let facts = Facts { of_clients: Some(Err("no".to_owned())), ..Facts::default() };
        assert_eq!(grades(&Facts { required: true, ..facts.clone() }, 1), [Grade::Good, Grade::Bad]);
        assert_eq!(grades(&facts, 1), [Grade::Good, Grade::Tolerable]);
        let facts = Facts { of_database: Some(Err("no".to_owned())), ..Facts::default() };
        assert_eq!(grades(&facts, 1), [Grade::Good, Grade::Bad]);
    }

    #[test]
    fn a_chain_holds_as_long_as_its_first_to_expire() {
        let made = |year: i32| {
            let mut params = rcgen::CertificateParams::new(["a".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
        };
        let (early, late) = (made(2031), made(2040));
        let both = of([late.as_slice(), &early].into_iter()).unwrap();
        assert_eq!(day(both.until), "2031-01-01");
        assert_eq!(of(std::iter::empty()), None);
        assert_eq!(of([b"nonsense".as_slice()].into_iter()), None);
    }
}
