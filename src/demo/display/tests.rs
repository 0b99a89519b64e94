//! Against a real Xvfb, with the smallest client there can be.

use std::{
    io::Write,
    os::unix::{fs::MetadataExt, net::UnixStream},
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Gives the root window a background and clears it: connection set-up, two requests and one that has an answer.
fn paint_root(display: &Display, colour: u32) {
    let mut server = UnixStream::connect(format!("/tmp/.X11-unix/X{}", display.number)).unwrap();
    server.write_all(&[b'l', 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let mut head = [0; 8];
    server.read_exact(&mut head).unwrap();
    let mut setup = vec![0; usize::from(u16::from_le_bytes([head[6], head[7]])) * 4];
    server.read_exact(&mut setup).unwrap();
    assert_eq!(head[0], 1, "refused: {}", String::from_utf8_lossy(&setup));
    let vendor = usize::from(u16::from_le_bytes([setup[16], setup[17]])).next_multiple_of(4);
    let screen = 32 + vendor + usize::from(setup[21]) * 8;
    let root: [u8; 4] = setup[screen..screen + 4].try_into().unwrap();
    const BACKGROUND_PIXEL: u32 = 2;
    let mut requests = vec![2, 0, 4, 0];
    requests.extend(root);
    requests.extend(BACKGROUND_PIXEL.to_le_bytes());
    requests.extend(colour.to_le_bytes());
    requests.extend([61, 0, 4, 0]);
    requests.extend(root);
    requests.extend([0; 8]);
    requests.extend([43, 0, 1, 0]);
    server.write_all(&requests).unwrap();
    server.read_exact(&mut [0; 32]).unwrap();
}

#[tokio::test]
async fn what_a_client_draws_is_in_the_picture() {
    let display = Display::start(640, 480).await.unwrap();
    let empty = display.screenshot().unwrap();
    assert_eq!((empty.width(), empty.height()), (640, 480));
    assert_eq!(empty.share_of(Rgb(0x12, 0x34, 0x56), 0), 0.0);
    paint_root(&display, 0x12_3456);
    let painted = |picture: &Screenshot| picture.share_of(Rgb(0x12, 0x34, 0x56), 0) == 1.0;
    display.wait_for(PATIENCE, painted).await.unwrap();
}

/// The picture that the documentation shows.
fn documented() -> (u32, u32, Vec<u8>) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/desktop.png");
    let mut reader = png::Decoder::new(std::io::BufReader::new(fs::File::open(path).unwrap())).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    (info.width, info.height, bytes)
}

#[test]
fn the_desktop_is_drawn_when_both_its_windows_have_their_text() {
    let (width, height, bytes) = documented();
    let drawn = Screenshot::of(width, height, bytes.clone());
    assert!(shows_desktop(&drawn));
    // The same before the text of one of them: a window's place in its colour.
    for rows in [40..380, 440..740] {
        let mut early = bytes.clone();
        for row in rows {
            let start = (row * width as usize + 44) * 3;
            let Rgb(r, g, b) = TERMINAL_COLOUR;
            early[start..start + 1150 * 3].copy_from_slice(&[r, g, b].repeat(1150));
        }
        assert!(!shows_desktop(&Screenshot::of(width, height, early)));
    }
}

#[tokio::test]
async fn waiting_for_what_never_comes_ends() {
    let display = Display::start(64, 64).await.unwrap();
    let error = display.wait_for(Duration::from_millis(50), |_| false).await.unwrap_err();
    assert!(matches!(error, DisplayError::Late { .. }), "{error}");
}

#[tokio::test]
async fn two_screens_have_two_numbers_and_leave_nothing() {
    let (one, two) = tokio::join!(Display::start(64, 64), Display::start(64, 64));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.name(), two.name());
    let (dir, path) = (one.dir.path().to_owned(), format!("/tmp/.X11-unix/X{}", one.number));
    let socket = || std::fs::metadata(&path).map(|socket| socket.ino()).ok();
    let its = socket();
    assert!(dir.exists() && its.is_some());
    drop(one);
    // Another screen may have its number by now.
    assert!(!dir.exists() && (socket().is_none() || socket() != its));
    assert!(two.is_alive());
}

#[test]
fn the_terminals_of_the_desktop_have_the_colour_that_is_looked_for() {
    let script = include_str!("../desktop/desktop-terminal");
    assert!(script.contains(&format!("-bg '{TERMINAL_COLOUR}'")), "{script}");
}
