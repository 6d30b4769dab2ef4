use proptest::prelude::*;

use super::*;
use crate::ErrorKind;
use crate::setup::ForwardedPort;

fn parsed(text: &str) -> Setup {
    parse_devcontainer("devcontainer.json", text).unwrap()
}

fn ports(ports: &[ForwardedPort]) -> Vec<String> {
    ports.iter().map(|port| format!("{port} {}", port.label.as_deref().unwrap_or("-"))).collect()
}

#[test]
fn a_whole_file_is_read() {
    let setup = parsed(
        r#"// For a web application.
{
    "name": "app",
    "image": "example.com/base:1", /* pinned */
    "containerEnv": {"A": "1"},
    "remoteEnv": {"B": "2", "C": null},
    "remoteUser": "dev",
    "workspaceFolder": "/workspace/app/web",
    "forwardPorts": [3000, "db:5432", "localhost:8080", 3000, 40001],
    "portsAttributes": {
        "3000": {"label": "web"}, "db:5432": {"label": "database"}, "40000-40010": {"label": "range"},
    },
    "onCreateCommand": "make deps",
    "updateContentCommand": ["make", "all targets"],
    "postCreateCommand": {"a": "x | y", "b": ["x", "|"]},
    "postStartCommand": "",
    "waitFor": "postCreateCommand",
}
"#,
    );
    assert_eq!(setup.image.as_deref(), Some("example.com/base:1"));
    assert_eq!(setup.user.as_deref(), Some("dev"));
    assert_eq!(setup.folder.as_deref(), Some("/workspace/app/web"));
    assert_eq!(setup.remote_environment[&"C".parse().unwrap()], None);
    assert_eq!(ports(&setup.ports), ["3000 web", "db:5432 database", "8080 -", "40001 range"]);
    assert_eq!(setup.wait_for, Some(StepKind::PostCreate));
    let kinds: Vec<_> = setup.commands.keys().copied().collect();
    assert_eq!(kinds, [StepKind::OnCreate, StepKind::UpdateContent, StepKind::PostCreate]);
    let content = &setup.commands[&StepKind::UpdateContent];
    assert_eq!((content.field.as_str(), content.line), ("updateContentCommand", Some(14)));
    assert_eq!(content.commands[""].arguments(), ["make", "all targets"]);
    let create = &setup.commands[&StepKind::PostCreate];
    assert_eq!(create.commands["a"].arguments(), ["/bin/sh", "-c", "x | y"]);
    assert_eq!(create.commands["b"].arguments(), ["x", "|"]);
    assert!(setup.ignored.is_empty(), "{:?}", setup.ignored);
}

#[test]
fn the_example_says_what_it_shows() {
    let setup = parsed(include_str!("../example/devcontainer.json"));
    assert_eq!(setup.commands.len(), 4);
    assert_eq!(ports(&setup.ports), ["3000 web", "db:5432 -"]);
    let ignored: Vec<_> = setup.ignored.iter().map(|field| field.field.as_str()).collect();
    assert_eq!(ignored, ["features"]);
}

#[test]
fn what_is_not_done_is_listed() {
    let setup = parsed(
        r#"{
    "$schema": "x", "build": {"dockerfile": 5},
    "features": 1, "mounts": [], "initializeCommand": "x", "customizations": {},
    "imgae": "typo",
    "portsAttributes": {"3000": {"onAutoForward": "silent"}, ".+/server.js": {"label": "x"}},
    "containerUser": "root",
    "remoteUser": "dev",
    "postStartCommand": "first",
    "postStartCommand": "second"
}"#,
    );
    let mut ignored: Vec<(String, u64, IgnoredReason)> =
        setup.ignored.iter().map(|field| (field.field.clone(), field.line.unwrap(), field.reason)).collect();
    ignored.sort_by_key(|(field, line, _)| (*line, field.clone()));
    let expected = [
        ("build", 2, IgnoredReason::Build),
        ("customizations", 3, IgnoredReason::Editor),
        ("features", 3, IgnoredReason::Features),
        ("initializeCommand", 3, IgnoredReason::Host),
        ("mounts", 3, IgnoredReason::Container),
        ("imgae", 4, IgnoredReason::Unknown),
        ("portsAttributes..+/server.js", 5, IgnoredReason::Expression),
        ("portsAttributes.3000.onAutoForward", 5, IgnoredReason::Editor),
        ("containerUser", 6, IgnoredReason::Overridden),
        ("postStartCommand", 8, IgnoredReason::Repeated),
    ];
    assert_eq!(ignored, expected.map(|(field, line, reason)| (field.to_owned(), line, reason)));
    assert_eq!(setup.user.as_deref(), Some("dev"));
    assert_eq!(setup.commands[&StepKind::PostStart].line, Some(9));
}

#[test]
fn the_user_of_the_container_counts_where_no_other_is_named() {
    let setup = parsed(r#"{"containerUser": "node"}"#);
    assert_eq!(setup.user.as_deref(), Some("node"));
    assert!(setup.ignored.is_empty());
}

#[test]
fn nothing_is_waited_for_where_the_file_says_so() {
    assert_eq!(parsed(r#"{"waitFor": "initializeCommand"}"#).wait_for, None);
    assert_eq!(parsed("{}").wait_for, Some(StepKind::UpdateContent));
}

#[test]
fn a_mistake_is_reported_with_its_place() {
    let cases = [
        ("", None, None, "empty"),
        ("// nothing", None, None, "empty"),
        ("[]", Some("1"), None, "not an object"),
        ("{\n\"image\": ,\n}", Some("2"), None, ""),
        ("{\n'image': 'x'}", Some("2"), None, "single-quoted"),
        ("{\n\n\"image\": 5}", Some("3"), Some("image"), "not a string"),
        ("{\"remoteUser\": \" \"}", Some("1"), Some("remoteUser"), "empty"),
        ("{\"containerEnv\":\n{\"1A\": \"\"}}", Some("2"), Some("containerEnv.1A"), "variable name"),
        ("{\"containerEnv\":\n{\"A\": null}}", Some("2"), Some("containerEnv.A"), "not a string"),
        ("{\"remoteEnv\": {\"A\": 1}}", Some("1"), Some("remoteEnv.A"), "not a string"),
        ("{\"forwardPorts\": [1,\n70000]}", Some("2"), Some("forwardPorts[1]"), "port"),
        ("{\"forwardPorts\": [\"a b:1\"]}", Some("1"), Some("forwardPorts[0]"), "port"),
        ("{\"forwardPorts\": [-1]}", Some("1"), Some("forwardPorts[0]"), "port"),
        ("{\"forwardPorts\": 3000}", Some("1"), Some("forwardPorts"), "array"),
        ("{\"postCreateCommand\":\n5}", Some("1"), Some("postCreateCommand"), "command"),
        ("{\"postCreateCommand\": {\"a\":\n[1]}}", Some("2"), Some("postCreateCommand.a[0]"), "string"),
        ("{\"postCreateCommand\": {\"a\": {}}}", Some("1"), Some("postCreateCommand.a"), "command"),
        ("{\"onCreateCommand\": \"a\\u0000b\"}", Some("1"), Some("onCreateCommand"), "NUL"),
        ("{\"waitFor\": \"postAttachCommand\"}", Some("1"), Some("waitFor"), "name"),
        ("{\"waitFor\": \"dotfiles\"}", Some("1"), Some("waitFor"), "name"),
    ];
    for (text, line, field, why) in cases {
        let error = parse_devcontainer("d.json", text).expect_err(text);
        let context: BTreeMap<&str, &str> = error.context().collect();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
        assert_eq!(context.get("file"), Some(&"d.json"), "{text}");
        assert_eq!(context.get("line").copied(), line, "{text}: {error}");
        assert_eq!(context.get("field").copied(), field, "{text}: {error}");
        assert!(error.message().contains(why), "{text}: {error}");
        assert!(error.hint_text().is_some(), "{text}: {error}");
    }
}

#[test]
fn a_file_that_is_too_long_or_too_deep_is_refused() {
    let long = format!("{{}}{}", " ".repeat(TEXT_MAX));
    assert!(parse_devcontainer("d.json", &long).unwrap_err().to_string().contains("too long"));
    let deep = format!("{{\"build\": {}", "[".repeat(100_000));
    assert!(parse_devcontainer("d.json", &deep).is_err());
}

/// The name of a field, one of those that count more often than not.
fn names() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "image",
        "containerEnv",
        "remoteEnv",
        "remoteUser",
        "containerUser",
        "workspaceFolder",
        "forwardPorts",
        "portsAttributes",
        "onCreateCommand",
        "postCreateCommand",
        "postStartCommand",
        "postAttachCommand",
        "waitFor",
        "label",
        "3000",
        "4000-5000",
        "build",
    ];
    prop_oneof![4 => prop::sample::select(KNOWN).prop_map(String::from), 1 => "\\PC{0,5}"]
}

fn values() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        (0_u16..9000).prop_map(Into::into),
        "\\PC{0,12}".prop_map(Into::into),
        names().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::vec((names(), inner), 0..6)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_read_or_refused_with_its_file(value in values(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        match parse_devcontainer("d.json", &text.unwrap()) {
            Ok(setup) => {
                let fields = value.as_object().unwrap();
                let counted = |name: &&String| {
                    not_done(name).is_some() || (step(name).is_none() && !is_known(name))
                };
                for name in fields.keys().filter(|name| !fields[*name].is_null()).filter(counted) {
                    prop_assert!(setup.ignored.iter().any(|field| field.field == *name), "{}", name);
                }
                let stored = serde_json::to_string(&setup).unwrap();
                prop_assert_eq!(serde_json::from_str::<Setup>(&stored).unwrap(), setup);
            }
            Err(error) => prop_assert!(error.context().any(|pair| pair == ("file", "d.json")), "{}", error),
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(\\{|\\}|\\[|\\]|\"|:|,|/|\\*|\\n|image|\\PC){0,60}") {
        let _ = parse_devcontainer("d.json", &text);
    }

    #[test]
    fn comments_and_trailing_commas_change_nothing(value in values()) {
        prop_assume!(value.is_object());
        let plain = serde_json::to_string_pretty(&value).unwrap();
        let comma = if value.as_object().unwrap().is_empty() { "" } else { "," };
        let body = plain.trim_end().strip_suffix('}').unwrap();
        let decorated = format!("{body}{comma} /* \" */ }} // {{");
        let read = |text: &str| parse_devcontainer("d.json", text).map_err(|error| error.to_string());
        prop_assert_eq!(read(&decorated), read(&plain));
    }
}

/// Fields that count, without the commands.
fn is_known(name: &str) -> bool {
    matches!(
        name,
        "name"
            | "$schema"
            | "image"
            | "containerEnv"
            | "remoteEnv"
            | "remoteUser"
            | "containerUser"
            | "workspaceFolder"
            | "forwardPorts"
            | "portsAttributes"
            | "waitFor"
    )
}
