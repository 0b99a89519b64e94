//! Shows the user's desktops and finds out which one is meant.

use comfy_table::{Table, presets::NOTHING};

use super::{ClientError, Console, session::Desktop};

/// The list as a table, or as JSON.
pub(super) fn render(desktops: &[Desktop], json: bool) -> String {
    if json {
        return serde_json::json!(desktops).to_string();
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["ID", "NAME", "STATE", ""]);
    for desktop in desktops {
        let blocked = if desktop.blocked { "blocked" } else { "" };
        table.add_row([&desktop.id.to_string(), &desktop.name, &desktop.state, blocked]);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// The desktop that the user means: the one named, the only one, or the one chosen on the terminal.
pub(super) fn choose<'a>(
    desktops: &'a [Desktop],
    wanted: Option<&str>,
    console: &impl Console,
) -> Result<&'a Desktop, ClientError> {
    if desktops.is_empty() {
        return Err(ClientError::Unavailable {
            text: "you have no desktop; ask your administrator for one".to_owned(),
        });
    }
    if let Some(wanted) = wanted {
        return find(desktops, wanted);
    }
    match desktops {
        [only] => Ok(only),
        _ if console.interactive() => {
            console.say(&render(desktops, false));
            loop {
                match find(desktops, &console.ask("Which desktop? ")?) {
                    Ok(desktop) => return Ok(desktop),
                    Err(error) => console.say(&error.sentence()),
                }
            }
        }
        _ => Err(ClientError::Usage(format!("there are several desktops, choose with --vm: {}", names(desktops)))),
    }
}

/// By id, else by name.
fn find<'a>(desktops: &'a [Desktop], wanted: &str) -> Result<&'a Desktop, ClientError> {
    if let Some(desktop) = desktops.iter().find(|desktop| desktop.id.to_string() == wanted) {
        return Ok(desktop);
    }
    let named: Vec<&Desktop> = desktops.iter().filter(|desktop| desktop.name == wanted).collect();
    match named.as_slice() {
        [desktop] => Ok(desktop),
        [] => {
            let text = format!("you have no desktop {wanted:?}; there are: {}", names(desktops));
            Err(ClientError::Unavailable { text })
        }
        several => {
            let ids: Vec<String> = several.iter().map(|desktop| desktop.id.to_string()).collect();
            Err(ClientError::Usage(format!("several desktops are called {wanted:?}, use an id: {}", ids.join(", "))))
        }
    }
}

fn names(desktops: &[Desktop]) -> String {
    let names: Vec<String> = desktops.iter().map(|desktop| format!("{} ({})", desktop.name, desktop.id)).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Script, *};
    use crate::model::VmId;

    fn desktops(names: &[(i32, &str)]) -> Vec<Desktop> {
        let desktop = |(id, name): &(i32, &str)| Desktop {
            id: VmId(*id),
            name: (*name).to_owned(),
            state: "stopped".to_owned(),
            blocked: *id == 2,
        };
        names.iter().map(desktop).collect()
    }

    #[test]
    fn a_desktop_is_found_by_id_then_by_name() {
        let list = desktops(&[(1, "2"), (2, "work"), (3, "play"), (4, "play")]);
        let nobody = Script::default();
        assert_eq!(choose(&list, Some("2"), &nobody).unwrap().id, VmId(2));
        assert_eq!(choose(&list, Some("work"), &nobody).unwrap().id, VmId(2));
        let text = choose(&list, Some("play"), &nobody).unwrap_err().to_string();
        assert_eq!(text, "several desktops are called \"play\", use an id: 3, 4");
        assert_eq!(choose(&list, Some("x"), &nobody).unwrap_err().exit_code(), 5);
    }

    #[test]
    fn without_a_name_the_only_one_is_taken_or_the_user_asked() {
        let list = desktops(&[(1, "work"), (2, "play")]);
        assert_eq!(choose(&list[..1], None, &Script::default()).unwrap().id, VmId(1));
        let error = choose(&list, None, &Script::default()).unwrap_err();
        assert_eq!((error.exit_code(), error.to_string().contains("work (1), play (2)")), (1, true), "{error}");
        assert_eq!(choose(&list, None, &Script::answering(&["typo", "play"])).unwrap().id, VmId(2));
        assert_eq!(choose(&[], None, &Script::default()).unwrap_err().exit_code(), 5);
    }

    #[test]
    fn the_list_is_a_table_or_json() {
        let list = desktops(&[(1, "work"), (2, "play")]);
        let table = render(&list, false);
        let lines: Vec<&str> = table.lines().map(str::trim).collect();
        assert!(lines[0].starts_with("ID") && lines[2].ends_with("blocked"), "{table}");
        let json = r#"[{"id":1,"name":"work","state":"stopped","blocked":0}]"#;
        assert_eq!(render(&list[..1], true), json);
    }
}
