//! Which versions and cipher suites of TLS the router offers, from the words that classic QVD and OpenSSL have for
//! them. What our library does not speak is reported and left out; where nothing would be left, everything it speaks
//! is offered.

use rustls::{
    SupportedCipherSuite, SupportedProtocolVersion,
    crypto::aws_lc_rs::{ALL_CIPHER_SUITES, cipher_suite},
    version::{TLS12, TLS13},
};

/// What is offered to clients.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// Newest first; never empty.
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// Of both versions, best first.
    pub suites: Vec<SupportedCipherSuite>,
    /// What was asked for and cannot be had, a sentence each.
    pub warnings: Vec<String>,
}

impl Offer {
    /// From the values of `l7r.options.SSL_version` and `l7r.options.SSL_cipher_list`.
    pub fn new(versions: &str, ciphers: &str) -> Self {
        let mut warnings = Vec::new();
        let mut versions = spoken_versions(versions, &mut warnings);
        let chosen = suites(ciphers, &mut warnings);
        let with_suites = |version: &&'static SupportedProtocolVersion| {
            chosen.iter().any(|suite| suite.version().version == version.version)
        };
        if versions.iter().any(|version| !with_suites(version)) {
            let left: Vec<_> = versions.iter().copied().filter(with_suites).collect();
            if left.is_empty() {
                warnings.push("the cipher list leaves nothing that is spoken here; it is ignored".to_owned());
                return Self { versions, suites: ALL_CIPHER_SUITES.to_vec(), warnings };
            }
            warnings.push("the cipher list leaves nothing for TLS 1.2, which is not offered".to_owned());
            versions = left;
        }
        Self { versions, suites: chosen, warnings }
    }
}

fn spoken_versions(text: &str, warnings: &mut Vec<String>) -> Vec<&'static SupportedProtocolVersion> {
    // Minor versions, 0 for SSL.
    let (mut least, mut forbidden) = (None::<u8>, Vec::new());
    for item in text.split(':').map(str::trim).filter(|item| !item.is_empty()) {
        let (forbids, word) = item.strip_prefix('!').map_or((false, item), |word| (true, word));
        let version = match word.to_ascii_lowercase().replace(['_', '.'], "").as_str() {
            "sslv23" | "sslv2/3" | "tls" => {
                least = Some(least.unwrap_or(2));
                continue;
            }
            "sslv2" | "sslv3" => 0,
            "tlsv1" | "tlsv10" => 10,
            "tlsv11" => 11,
            "tlsv12" => 12,
            "tlsv13" => 13,
            _ => {
                warnings.push(format!("{word:?} is no version of TLS"));
                continue;
            }
        };
        if forbids {
            forbidden.push(version);
        } else {
            if version < 12 {
                warnings.push(format!("{word} is not spoken here, only TLS 1.2 and 1.3"));
            }
            least = Some(least.map_or(version, |least| least.min(version)));
        }
    }
    let allowed = |version: u8| least.is_none_or(|least| version >= least) && !forbidden.contains(&version);
    let spoken: Vec<_> =
        [(13, &TLS13), (12, &TLS12)].into_iter().filter(|(number, _)| allowed(*number)).map(|(_, v)| v).collect();
    if spoken.is_empty() {
        warnings.push("the versions leave nothing that is spoken here; TLS 1.2 and 1.3 are offered".to_owned());
        return vec![&TLS13, &TLS12];
    }
    spoken
}

/// OpenSSL's name of a suite, whether it is of TLS 1.3, and the words of the cipher list that mean it, by what they
/// tell of it.
struct Known {
    suite: SupportedCipherSuite,
    name: &'static str,
    bits: u16,
    words: &'static [&'static str],
}

const EVERY: &[&str] =
    &["ALL", "DEFAULT", "COMPLEMENTOFALL", "HIGH", "TLSV1.2", "ECDHE", "EECDH", "KECDHE", "KEECDH", "FS"];

const KNOWN: &[Known] = &[
    Known { suite: cipher_suite::TLS13_AES_256_GCM_SHA384, name: "TLS_AES_256_GCM_SHA384", bits: 256, words: &[] },
    Known { suite: cipher_suite::TLS13_AES_128_GCM_SHA256, name: "TLS_AES_128_GCM_SHA256", bits: 128, words: &[] },
    Known {
        suite: cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        name: "TLS_CHACHA20_POLY1305_SHA256",
        bits: 256,
        words: &[],
    },
    Known {
        suite: cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        name: "ECDHE-ECDSA-AES256-GCM-SHA384",
        bits: 256,
        words: &["ECDSA", "AECDSA", "AES", "AES256", "AESGCM", "SHA384"],
    },
    Known {
        suite: cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        name: "ECDHE-ECDSA-AES128-GCM-SHA256",
        bits: 128,
        words: &["ECDSA", "AECDSA", "AES", "AES128", "AESGCM", "SHA256"],
    },
    Known {
        suite: cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        name: "ECDHE-ECDSA-CHACHA20-POLY1305",
        bits: 256,
        words: &["ECDSA", "AECDSA", "CHACHA20"],
    },
    Known {
        suite: cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        name: "ECDHE-RSA-AES256-GCM-SHA384",
        bits: 256,
        words: &["RSA", "ARSA", "AES", "AES256", "AESGCM", "SHA384"],
    },
    Known {
        suite: cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        name: "ECDHE-RSA-AES128-GCM-SHA256",
        bits: 128,
        words: &["RSA", "ARSA", "AES", "AES128", "AESGCM", "SHA256"],
    },
    Known {
        suite: cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        name: "ECDHE-RSA-CHACHA20-POLY1305",
        bits: 256,
        words: &["RSA", "ARSA", "CHACHA20"],
    },
];

impl Known {
    fn is_newest(&self) -> bool {
        self.suite.tls13().is_some()
    }

    /// Whether an item such as `ECDHE+AESGCM` means this suite.
    fn is_meant(&self, item: &str) -> bool {
        self.name == item
            || !self.is_newest() && item.split('+').all(|word| EVERY.contains(&word) || self.words.contains(&word))
    }
}

/// The suites of a cipher list: OpenSSL's rules for `:` `!` `-` `+` and `@STRENGTH`.
fn suites(list: &str, warnings: &mut Vec<String>) -> Vec<SupportedCipherSuite> {
    let (mut chosen, mut newest): (Vec<&Known>, Vec<&Known>) = (Vec::new(), Vec::new());
    let mut killed = Vec::new();
    for item in list.split([':', ',', ' ', ';']).filter(|item| !item.is_empty()) {
        let upper = item.to_ascii_uppercase();
        if upper == "@STRENGTH" {
            chosen.sort_by_key(|known| std::cmp::Reverse(known.bits));
            continue;
        }
        if upper.starts_with('@') {
            warnings.push(format!("{item} has no meaning here and is ignored"));
            continue;
        }
        let (operator, word) = match upper.split_at(1) {
            (operator @ ("!" | "-" | "+"), word) => (operator, word),
            _ => ("", upper.as_str()),
        };
        let meant = |known: &&Known| known.is_meant(word);
        match operator {
            "!" | "-" => {
                chosen.retain(|known| !meant(known));
                if operator == "!" {
                    killed.extend(KNOWN.iter().filter(meant).map(|known| known.name));
                }
            }
            "+" => chosen.sort_by_key(|known| meant(known)),
            _ => {
                let found: Vec<_> = KNOWN.iter().filter(meant).collect();
                if found.is_empty() {
                    warnings.push(format!("no cipher suite of {item} is spoken here"));
                }
                for known in found {
                    let among = if known.is_newest() { &mut newest } else { &mut chosen };
                    if !killed.contains(&known.name) && !among.iter().any(|other| other.name == known.name) {
                        among.push(known);
                    }
                }
            }
        }
    }
    if newest.is_empty() {
        newest = KNOWN.iter().filter(|known| known.is_newest() && !killed.contains(&known.name)).collect();
    }
    newest.into_iter().chain(chosen).map(|known| known.suite).collect()
}

#[cfg(test)]
mod tests {
    use rustls::ProtocolVersion;

    use super::*;
    use crate::model::config::{Config, keys};

    fn versions(text: &str) -> (Vec<ProtocolVersion>, usize) {
        let offer = Offer::new(text, "ALL");
        (offer.versions.iter().map(|version| version.version).collect(), offer.warnings.len())
    }

    /// OpenSSL's names of what is offered of TLS 1.2, and the warnings.
    fn older(list: &str) -> (Vec<&'static str>, Vec<String>) {
        let offer = Offer::new("", list);
        let name = |suite: &SupportedCipherSuite| KNOWN.iter().find(|known| known.suite == *suite).unwrap();
        let names = offer.suites.iter().map(name).filter(|known| !known.is_newest()).map(|known| known.name);
        (names.collect(), offer.warnings)
    }

    #[test]
    fn the_defaults_offer_everything_without_a_word() {
        let config = Config::default();
        let offer = Offer::new(&config.get(&keys::L7R_SSL_VERSION), &config.get(&keys::L7R_SSL_CIPHERS));
        assert_eq!((offer.versions.len(), offer.suites.len(), offer.warnings), (2, 9, vec![]));
    }

    #[test]
    fn versions_are_those_named_and_later_ones() {
        use ProtocolVersion::{TLSv1_2, TLSv1_3};
        let both = vec![TLSv1_3, TLSv1_2];
        assert_eq!(versions(""), (both.clone(), 0));
        assert_eq!(versions("SSLv23:!SSLv3:!SSLv2"), (both.clone(), 0));
        assert_eq!(versions("TLSv12"), (both.clone(), 0));
        assert_eq!(versions("TLSv1_3"), (vec![TLSv1_3], 0));
        assert_eq!(versions("TLSv1_2:!TLSv1_3"), (vec![TLSv1_2], 0));
        assert_eq!(versions("TLSv1_1"), (both.clone(), 1));
        assert_eq!(versions("hello"), (both.clone(), 1));
        assert_eq!(versions("SSLv23:!TLSv1_2:!TLSv1_3"), (both, 1));
    }

    #[test]
    fn cipher_lists_are_read_like_openssl_does() {
        for (list, expected) in [
            ("ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
            ("ECDHE+AESGCM:!aECDSA", "ECDHE-RSA-AES256-GCM-SHA384 ECDHE-RSA-AES128-GCM-SHA256"),
            ("HIGH:!AES:!RSA", "ECDHE-ECDSA-CHACHA20-POLY1305"),
            (
                "CHACHA20:!ECDSA:ALL",
                "ECDHE-RSA-CHACHA20-POLY1305 ECDHE-RSA-AES256-GCM-SHA384 ECDHE-RSA-AES128-GCM-SHA256",
            ),
            ("aRSA:+CHACHA20:-AES256", "ECDHE-RSA-AES128-GCM-SHA256 ECDHE-RSA-CHACHA20-POLY1305"),
            ("ARSA+AES128,ARSA+AES256 @STRENGTH", "ECDHE-RSA-AES256-GCM-SHA384 ECDHE-RSA-AES128-GCM-SHA256"),
        ] {
            let (names, warnings) = older(list);
            assert_eq!((names.join(" ").as_str(), warnings), (expected, vec![]), "{list}");
        }
    }

    #[test]
    fn what_is_not_spoken_is_reported() {
        let (names, warnings) = older("AES128-SHA:kRSA:ECDHE-RSA-AES128-GCM-SHA256:@SECLEVEL=2:!RC4");
        assert_eq!(names, ["ECDHE-RSA-AES128-GCM-SHA256"]);
        assert!(warnings[0].contains("AES128-SHA") && warnings[1].contains("kRSA") && warnings[2].contains("SECLEVEL"));
        assert_eq!(warnings.len(), 3);
        let offer = Offer::new("TLSv1_2:!TLSv1_3", "AES128-SHA");
        assert_eq!((offer.versions, offer.suites.len(), offer.warnings.len()), (vec![&TLS12], 9, 2));
    }

    #[test]
    fn suites_of_tls_1_3_are_all_offered_unless_some_are_named() {
        let newest = |list: &str| Offer::new("", list).suites.iter().filter(|suite| suite.tls13().is_some()).count();
        assert_eq!(newest("ECDHE-RSA-AES128-GCM-SHA256"), 3);
        assert_eq!(newest("HIGH:TLS_AES_128_GCM_SHA256"), 1);
        assert_eq!(newest("HIGH:!TLS_CHACHA20_POLY1305_SHA256"), 2);
        let offer = Offer::new("", "TLS_AES_128_GCM_SHA256");
        assert_eq!((offer.versions, offer.suites.len()), (vec![&TLS13], 1));
    }
}
