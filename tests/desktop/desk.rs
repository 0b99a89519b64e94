//! One user with one desktop.

use std::{fs, path::PathBuf, sync::Arc, time::Instant};

use super::{eventually, guest::Guest, installation::Installation, measured};

pub const PASSWORD: &str = "wonder";

/// A window manager that starts one window, which fills the screen.
pub const SESSION: &str = r#"<JWM><StartupCommand>
    exec xterm -geometry 200x80+0+0 -e sh "$HOME/animation"
</StartupCommand></JWM>"#;

/// Changes the window's colour all the time; see [`Viewer::sees_motion`](super::viewer::Viewer::sees_motion).
pub const ANIMATION: &str = r#"
while :; do
    green=$(((green + 1) % 256))
    printf "\033]11;#%02x%02x%02x\007" 200 $green 90
    sleep 0.05
done
"#;

/// A user and a VM of the user's.
pub struct Desk {
    pub at: Arc<Installation>,
    pub user: String,
    pub vm: i32,
}

impl Desk {
    /// A desktop from the demo's image.
    pub async fn new(at: &Arc<Installation>, user: &str) -> Self {
        Self::of(at, user, "desktop").await
    }

    /// A desktop of an OSF.
    pub async fn of(at: &Arc<Installation>, user: &str, osf: &str) -> Self {
        at.sql(&format!("select user_create('{user}', '{PASSWORD}')")).await.unwrap();
        let vm = at.value(&format!("select vm_create('{user}', 'desktop', '{osf}')")).await.parse().unwrap();
        Self { at: at.clone(), user: user.to_owned(), vm }
    }

    /// The same with a session that is one animated window.
    pub async fn animated(at: &Arc<Installation>, user: &str) -> Self {
        let desk = Self::new(at, user).await;
        desk.animate();
        desk
    }

    /// Makes its session one animated window from now on.
    pub fn animate(&self) {
        fs::create_dir_all(self.home()).unwrap();
        for (name, text) in [(".jwmrc", SESSION), ("animation", ANIMATION)] {
            fs::write(self.home().join(name), text).unwrap();
        }
    }

    /// Its name as administrators write it.
    pub fn name(&self) -> String {
        format!("{}/desktop", self.user)
    }

    /// The user's home, seen from the node.
    pub fn home(&self) -> PathBuf {
        self.at.storage(&format!("homefs/{}-fs/{}", self.vm, self.user))
    }

    /// What `vm_list` says.
    pub async fn column(&self, column: &str) -> Option<String> {
        self.at.sql(&format!("select {column} from vm_list where id = {}", self.vm)).await.unwrap()
    }

    /// Asks for it to be started.
    pub async fn ask_start(&self) {
        self.at.sql(&format!("select vm_start('{}')", self.name())).await.unwrap();
    }

    /// Asks for it to be stopped.
    pub async fn ask_stop(&self) {
        self.at.sql(&format!("select vm_stop('{}')", self.name())).await.unwrap();
    }

    /// Starts it and waits until it runs.
    pub async fn start(&self) -> Guest {
        let begin = Instant::now();
        self.ask_start().await;
        self.wait("running").await;
        measured("vm_start until running", begin);
        self.guest().await
    }

    /// Waits for a state.
    pub async fn wait(&self, state: &str) {
        eventually(&format!("{} is {state}", self.name()), async || {
            let stands = "state || coalesce(' to ' || command, '') || coalesce(': ' || reason, '')";
            let stands = self.column(stands).await.unwrap_or_default();
            assert!(state == "stopped" || !stands.starts_with("stopped: "), "{} is {stands}", self.name());
            if stands.split(':').next() == Some(state) { Ok(()) } else { Err(stands) }
        })
        .await;
    }

    /// Stops it and waits until it is stopped and nothing of it is left.
    pub async fn stop(&self) {
        let begin = Instant::now();
        self.ask_stop().await;
        self.wait("stopped").await;
        self.nothing_is_left().await;
        measured("vm_stop until everything is gone", begin);
    }

    /// Waits until nobody uses it.
    pub async fn disconnected(&self) {
        let query = format!("select user_state from vm_list where id = {}", self.vm);
        self.at.wait_for("the session did not end", &query, "disconnected").await.unwrap();
    }

    /// Its inside while it runs.
    pub async fn guest(&self) -> Guest {
        Guest::of(self).await
    }
}
