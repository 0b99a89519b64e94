use super::*;

fn unreachable() -> ClientError {
    ClientError::Unreachable { server: "desk:1".to_owned(), source: io::ErrorKind::TimedOut.into() }
}

async fn run(
    first: impl Future<Output = Result<u8, ClientError>>,
    second: impl Future<Output = Result<u8, ClientError>>,
) -> Result<(Way, u8), ClientError> {
    race((Way::Quic, first), (Way::Tls, second)).await
}

#[tokio::test]
async fn the_first_way_wins_when_it_answers_and_the_second_is_not_even_tried() {
    let never = async { panic!("the second way was tried") };
    assert_eq!(run(async { Ok(1) }, never).await.unwrap(), (Way::Quic, 1));
}

#[tokio::test]
async fn a_silent_or_failing_first_way_gives_way_to_the_second() {
    let began = std::time::Instant::now();
    assert_eq!(run(async { Err(unreachable()) }, async { Ok(2) }).await.unwrap(), (Way::Tls, 2));
    assert!(began.elapsed() < HEAD_START);
    assert_eq!(run(std::future::pending(), async { Ok(2) }).await.unwrap(), (Way::Tls, 2));
    assert!(began.elapsed() >= HEAD_START);
}

#[tokio::test]
async fn a_first_way_that_is_slow_may_still_win_when_the_second_fails() {
    let slow = async {
        tokio::time::sleep(HEAD_START * 4).await;
        Ok(1)
    };
    assert_eq!(run(slow, async { Err(unreachable()) }).await.unwrap(), (Way::Quic, 1));
    assert!(run(async { Err(unreachable()) }, async { Err(unreachable()) }).await.is_err());
}

#[tokio::test]
async fn what_a_person_must_decide_ends_the_race() {
    let refused = async { Err(ClientError::Usage("no".to_owned())) };
    let never = async { panic!("the second way was tried") };
    assert!(matches!(run(refused, never).await, Err(ClientError::Usage(_))));
}

#[test]
fn what_worked_is_remembered_and_that_quic_did_not_is_forgotten_after_a_day() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("new/transports.json");
    let (home, office) = (Server { host: "home".to_owned(), port: 1 }, Server { host: "office".to_owned(), port: 1 });
    let mut memory = Memory::load(&path);
    memory.0.insert(home.to_string(), Remembered { way: Way::Quic, at: 1000 });
    memory.0.insert(office.to_string(), Remembered { way: Way::Tls, at: 1000 });
    memory.save(&path).unwrap();
    let again = Memory::load(&path);
    let day = TLS_REMEMBERED.as_secs();
    assert_eq!((again.way(&home, 1000 + 9 * day), again.way(&office, 1000 + day)), (Some(Way::Quic), Some(Way::Tls)));
    assert_eq!(again.way(&office, 1001 + day), None);
    fs::write(&path, "{").unwrap();
    assert_eq!(Memory::load(&path).way(&home, 1000), None);
}

#[test]
fn quic_in_the_clear_is_refused() {
    assert!(matches!(Dialer::new(None, Transport::Quic, None), Err(ClientError::Usage(_))));
    assert!(Dialer::new(None, Transport::Auto, None).is_ok());
}
