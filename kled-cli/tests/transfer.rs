//! Copies and forwarded ports with the local provider.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is how a test fails")]

mod place;

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Stdio};

use place::{DEADLINE, Place, ended, send, succeeded, text, until};
use rustix::process::Signal;

/// What a script in the workspace prints.
fn said(place: &Place, script: &str) -> String {
    let output = place.script(&[], script).output().unwrap();
    succeeded(&output);
    text(&output.stdout)
}

#[test]
fn files_and_folders_are_copied_both_ways() {
    let place = Place::with_workspace();
    fs::create_dir_all(place.path("tree/sub")).unwrap();
    fs::write(place.path("tree/sub/program"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(place.path("tree/sub/program"), fs::Permissions::from_mode(0o750)).unwrap();
    std::os::unix::fs::symlink("sub/program", place.path("tree/link")).unwrap();

    let copied = place.run("workspace cp tree demo:");
    succeeded(&copied);
    assert!(text(&copied.stderr).starts_with("copied 19 B in "), "{}", text(&copied.stderr));
    assert!(copied.stdout.is_empty());
    assert_eq!(
        said(&place, "tree/link; stat -c %a tree/sub/program; readlink tree/link"),
        "ran\n750\nsub/program\n"
    );
    // Into a folder that is there, under another name, what is in it, and below folders that are not there.
    for line in ["tree demo:tree", "tree demo:other", "tree/. demo:inside", "tree/link demo:new/folder/file"]
    {
        succeeded(&place.run(&format!("workspace cp {line}")));
    }
    let found = said(&place, "find tree/tree other inside new -type f | sort");
    assert_eq!(found, "inside/sub/program\nnew/folder/file\nother/sub/program\ntree/tree/sub/program\n");

    fs::create_dir(place.path("here")).unwrap();
    for line in
        ["demo:tree here", "demo:tree here/renamed", "demo:tree/sub/. here/inside", "demo:README.md ."]
    {
        succeeded(&place.run(&format!("workspace cp {line}")));
    }
    assert_eq!(fs::read_to_string(place.path("README.md")).unwrap(), "hello\n");
    for program in ["here/tree/sub/program", "here/renamed/sub/program", "here/inside/program"] {
        let mode = fs::metadata(place.path(program)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o750, "{program}");
    }
    assert_eq!(fs::read_link(place.path("here/tree/link")).unwrap(), Path::new("sub/program"));
    let json = place.run("workspace cp demo:README.md again -o json --quiet");
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["bytes"], 6);
}

#[test]
fn a_stream_is_a_file() {
    let place = Place::with_workspace();
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|index| (index % 251) as u8).collect();
    let mut child =
        place.kled().args(["workspace", "cp", "-", "demo:in"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert_eq!(ended(&mut child).code(), Some(0));
    let out = place.run("workspace cp demo:in - --quiet");
    succeeded(&out);
    assert!(out.stdout == bytes, "{} bytes came back", out.stdout.len());
    // A reader that has enough is no failure.
    let mut child = place
        .kled()
        .args(["workspace", "cp", "demo:in", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((ended(&mut child).code(), said.as_str()), (Some(0), ""));
}

#[test]
fn errors_of_a_copy_have_their_codes() {
    let place = Place::with_workspace();
    for (line, code) in [
        ("demo:nowhere .", 3),
        ("nowhere demo:", 3),
        ("gone:README.md .", 3),
        ("README.md gone:x", 3),
        ("repository/README.md gone:x", 3),
        ("repository/README.md demo:nowhere/", 3),
        ("demo:README.md nowhere/x", 3),
        ("demo:. -", 2),
        ("- demo:", 2),
        ("a b", 2),
        ("demo:a demo:b", 2),
        ("demo:README.md", 2),
    ] {
        let output = place.run(&format!("workspace cp {line}"));
        assert_eq!(output.status.code(), Some(code), "{line}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{line}");
    }
    succeeded(&place.run("workspace stop demo"));
    assert_eq!(place.run("workspace cp demo:README.md x").status.code(), Some(4));
}

#[test]
fn a_link_of_the_workspace_that_leads_out_is_refused() {
    let place = Place::with_workspace();
    said(&place, "mkdir f; echo x > f/x; ln -s /etc/passwd f/outside");
    let refused = place.run("workspace cp demo:f f");
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("a link leads out of the copy"), "{}", text(&refused.stderr));
    assert!(!place.path("f").exists());
    let skipped = place.run("workspace cp demo:f f --outside-links skip");
    succeeded(&skipped);
    assert!(text(&skipped.stderr).starts_with("left out: outside leads out of the copy\n"));
    assert!(place.path("f/x").exists() && !place.path("f/outside").is_symlink());
}

#[test]
fn a_copy_that_is_interrupted_leaves_nothing() {
    let place = Place::with_workspace();
    // A file without blocks: it takes seconds to copy and no room in the workspace.
    said(&place, "truncate -s 4G big");
    fs::create_dir(place.path("here")).unwrap();
    let entries = || fs::read_dir(place.path("here")).unwrap().count();
    let mut child =
        place.kled().args(["workspace", "cp", "demo:big", "here"]).stderr(Stdio::null()).spawn().unwrap();
    until("the copy to arrive", || entries() > 0);
    send(&child, Signal::INT);
    assert_eq!(ended(&mut child).code(), Some(130));
    assert_eq!(entries(), 0);
}

/// Answers every connection with what it says, until that is all.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let (mut from, mut to) = {
                    let stream = stream.unwrap();
                    (stream.try_clone().unwrap(), stream)
                };
                let _gone = io::copy(&mut from, &mut to).and_then(|_| to.shutdown(Shutdown::Write));
            });
        }
    });
    port
}

/// A running `port-forward`, and the port on which it listens. A workspace of the local provider has the machine's
/// network, so what listens in the test listens in the workspace.
struct Forward {
    child: Child,
    port: u16,
    errors: BufReader<std::process::ChildStderr>,
}

impl Forward {
    fn start(place: &Place, remote: u16) -> Self {
        let mut child = place
            .kled()
            .args(["workspace", "port-forward", "demo", &format!("0:{remote}")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.strip_prefix("Forwarding from 127.0.0.1:").unwrap();
        let port = port.strip_suffix(&format!(" -> {remote}\n")).unwrap().parse().unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        Self { child, port, errors }
    }

    /// Sends all and receives all.
    fn echo(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut writer = stream.try_clone()?;
        std::thread::scope(|scope| {
            scope.spawn(move || writer.write_all(bytes).and_then(|()| writer.shutdown(Shutdown::Write)));
            let mut echoed = Vec::new();
            stream.read_to_end(&mut echoed).map(|_| echoed)
        })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

#[test]
fn a_port_is_forwarded_for_many_at_once_and_survives_a_restart() {
    let place = Place::with_workspace();
    let mut forward = Forward::start(&place, echo());
    let sent: Vec<u8> = (0..300_000_u32).map(|index| (index % 251) as u8).collect();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert!(forward.echo(&sent).unwrap() == sent));
        }
    });

    succeeded(&place.run("workspace stop demo"));
    let refused = forward.echo(b"hello");
    assert!(refused.is_err(), "a connection that failed does not end in order: {refused:?}");
    let mut line = String::new();
    forward.errors.read_line(&mut line).unwrap();
    assert_eq!(line, "error: connect: the workspace is stopped (workspace: demo)\n");

    succeeded(&place.run("workspace start demo"));
    assert_eq!(forward.echo(b"again").unwrap(), b"again");
    send(&forward.child, Signal::INT);
    assert_eq!(ended(&mut forward.child).code(), Some(130));
    assert!(TcpStream::connect(("127.0.0.1", forward.port)).is_err());
}

#[test]
fn nothing_listening_is_reported_and_ends_no_other_connection() {
    let place = Place::with_workspace();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut forward = Forward::start(&place, free);
    forward.echo(b"hello").unwrap_err();
    let mut line = String::new();
    forward.errors.read_line(&mut line).unwrap();
    assert!(line.contains(&format!("nothing in the workspace listens on port {free}")), "{line}");
    let listener = TcpListener::bind(("127.0.0.1", free)).unwrap();
    let _served = TcpStream::connect(("127.0.0.1", forward.port)).unwrap();
    listener.accept().unwrap();
    send(&forward.child, Signal::TERM);
    assert_eq!(ended(&mut forward.child).code(), Some(143));
}

#[test]
fn errors_of_a_forward_have_their_codes() {
    let place = Place::with_workspace();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (line, code) in
        [(format!("demo {port}:80"), 4), ("gone 8080".into(), 3), ("demo 0".into(), 2), ("demo".into(), 2)]
    {
        let output = place.run(&format!("workspace port-forward {line}"));
        assert_eq!(output.status.code(), Some(code), "{line}: {}", text(&output.stderr));
    }
    succeeded(&place.run("workspace stop demo"));
    assert_eq!(place.run("workspace forward demo 0:80").status.code(), Some(4));
}
