//! A desktop that a user works with, seen and used by an administrator in the browser: everything is real, from the X session in
//! a container to the pixels of the page.

use std::{fs, path::Path, sync::Arc};

use qvd::demo::screenshot::{Rgb, Screenshot};

use super::{
    driver::Browser,
    stage::{keep_picture, logged_in, web_tool},
};
use crate::desktop::{Desk, Installation, Viewer};

/// A window manager that starts one window, which fills the screen.
const SESSION: &str = r#"<JWM><StartupCommand>
    exec xterm -geometry 200x80+0+0 -e bash "$HOME/keys"
</StartupCommand></JWM>"#;

/// Makes the window a little greener with each key.
const KEYS: &str = r#"
green=0
while :; do
    printf "\033]11;#%02x%02x%02x\007" 200 $green 90
    IFS= read -r -s -n 1 key && green=$((green + 20))
done
"#;

/// The user agrees when this file is there.
const CONSENT: (&str, &str) = ("vma.x11vnc.confirm.command", "test -e $HOME/yes");

/// Waits until the picture in the page is so green after so many keys.
async fn shows(browser: &Browser, keys: u8) {
    let green = keys * 20;
    let pixel = "[...document.querySelector('#spy canvas').getContext('2d').getImageData(240, 240, 1, 1).data].join()";
    browser.until(&format!("{pixel} === '200,{green},90,255'")).await.unwrap();
}

#[tokio::test]
async fn a_user_is_asked_in_a_window_of_the_desktop() {
    let at = Installation::shared().await;
    let desk = Desk::animated(&at, "wilma").await;
    let wat = web_tool(&at).await;
    let browser = logged_in(&wat, &[]).await;
    let viewer = Viewer::connect(&desk).await;
    viewer.sees_motion("the desktop before anybody asks").await;
    browser.go(&format!("http://{}/vm/{}", wat.address(), desk.vm)).await.unwrap();
    browser.click_on("Watch").await.unwrap();
    browser.until_it_says("Waiting for the desktop; its user may be asked first.").await.unwrap();
    let words = |picture: &Screenshot| {
        let dots = (90..400).flat_map(|x| (130..250).map(move |y| (x, y)));
        dots.filter(|(x, y)| picture.pixel(*x, *y) == Some(Rgb(0, 0, 0))).count()
    };
    let is_asked = |picture: &Screenshot| picture.pixel(330, 250) == Some(Rgb(255, 255, 255)) && words(picture) > 500;
    let picture = viewer.sees("the question", is_asked).await;
    picture.save_png(&Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots/desktop-user-asked.png")).unwrap();
    assert!(
        !browser
            .script("return Boolean(document.querySelector('[data-state=shown]'))")
            .await
            .unwrap()
            .as_bool()
            .unwrap()
    );
    viewer.leave().await;
    desk.stop().await;
}

#[tokio::test]
async fn a_desktop_is_watched_when_its_user_agrees_and_used_only_by_one_who_takes_over() {
    let at = Arc::new(Installation::open_with(&[CONSENT]).await);
    let desk = Desk::new(&at, "wendy").await;
    fs::create_dir_all(desk.home()).unwrap();
    for (name, text) in [(".jwmrc", SESSION), ("keys", KEYS)] {
        fs::write(desk.home().join(name), text).unwrap();
    }
    let wat = web_tool(&at).await;
    let browser = logged_in(&wat, &[]).await;
    let page = format!("http://{}/vm/{}", wat.address(), desk.vm);

    browser.go(&page).await.unwrap();
    assert!(!browser.text().await.unwrap().contains("Watch"), "there is nothing to be seen");
    desk.start().await;
    browser.click_on("Watch").await.unwrap();
    browser.until_it_says("Nobody is using this desktop").await.unwrap();
    let viewer = Viewer::connect(&desk).await;
    let sees = async |keys: u8| {
        viewer.sees("the user's screen", |picture| picture.pixel(240, 240) == Some(Rgb(200, keys * 20, 90))).await;
    };
    sees(0).await;
    browser.click_on("Watch").await.unwrap();
    browser.until_it_says("The user did not agree.").await.unwrap();
    fs::write(desk.home().join("yes"), "").unwrap();

    browser.click_on("Watch").await.unwrap();
    browser.until_it_says("Nothing that you do here reaches it.").await.unwrap();
    shows(&browser, 0).await;
    keep_picture(&browser, "desktop-watched").await;
    browser.click("#spy canvas").await.unwrap();
    browser.press("abc").await.unwrap();

    browser.click_on("Take over").await.unwrap();
    browser.until_it_says("You use this desktop.").await.unwrap();
    shows(&browser, 0).await;
    browser.click("#spy canvas").await.unwrap();
    browser.press("a").await.unwrap();
    shows(&browser, 1).await;
    sees(1).await;
    browser.fill("#spy-type input", "b").await.unwrap();
    browser.click_on("Type it").await.unwrap();
    shows(&browser, 2).await;
    keep_picture(&browser, "desktop-taken-over").await;
    let out = "document.querySelector('#spy canvas').focus();
        document.querySelector('#spy canvas').dispatchEvent(new KeyboardEvent('keydown',
            {key: 'Escape', code: 'Escape', shiftKey: true, bubbles: true, cancelable: true}));
        return document.activeElement.id";
    assert_eq!(browser.script(out).await.unwrap(), "spy-end", "the keyboard is given back");
    // But for how pixels are looked at here.
    let complaints = browser.complaints().await.unwrap().into_iter().filter(|said| !said.contains("getImageData"));
    assert_eq!(complaints.collect::<Vec<_>>(), Vec::<String>::new());

    browser.language("es").await.unwrap();
    browser.phone(Some((390, 844))).await.unwrap();
    browser.go(&page).await.unwrap();
    browser.click_on("Observar").await.unwrap();
    browser.until("document.querySelector('#spy').dataset.state === 'shown'").await.unwrap();
    shows(&browser, 2).await;
    browser.until("document.documentElement.scrollWidth <= document.documentElement.clientWidth").await.unwrap();
    keep_picture(&browser, "desktop-watched-es-phone").await;
    desk.ask_stop().await;
    browser.until_it_says("La máquina virtual no está en marcha.").await.unwrap();
    desk.wait("stopped").await;
    drop(viewer);
}
