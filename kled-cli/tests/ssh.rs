//! Workspaces of the local provider through the real `ssh`, `scp` and `sftp`.
#![cfg(feature = "ssh")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is how a test fails")]

mod place;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use place::{Place, ended, succeeded, text, until};

/// A place whose workspace has an entry.
fn with_entry() -> Place {
    let place = Place::with_workspace();
    let made = place.run("ssh-config demo");
    succeeded(&made);
    assert_eq!(text(&made.stdout), "demo.kled\n");
    place
}

/// One of OpenSSH's programs with the configuration that was made, and no other.
fn program(place: &Place, name: &str) -> Command {
    let mut command = Command::new(name);
    command.env_clear().envs(place.variables()).current_dir(place.0.path());
    command.arg("-F").arg(place.path("home/.ssh/config")).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ssh(place: &Place, arguments: &[&str]) -> Command {
    let mut command = program(place, "ssh");
    command.args(arguments);
    command
}

#[test]
fn a_command_has_its_streams_and_its_exit_code() {
    let place = with_entry();
    let both = ssh(&place, &["demo.kled", "echo out; echo err >&2; pwd; exit 42"]).output().unwrap();
    assert_eq!((both.status.code(), text(&both.stderr).as_str()), (Some(42), "err\n"));
    let checkout = text(&place.run("workspace exec demo -- pwd").stdout);
    assert_eq!(text(&both.stdout), format!("out\n{checkout}"));
    let variables = ["-o", "SetEnv=LC_ONE=1 KLED_TWO=2 OTHER=3", "demo.kled", "echo $LC_ONE$KLED_TWO$OTHER"];
    assert_eq!(text(&ssh(&place, &variables).output().unwrap().stdout), "12\n");
    succeeded(&place.run("workspace stop demo"));
    let stopped = ssh(&place, &["demo.kled", "true"]).output().unwrap();
    assert_eq!(stopped.status.code(), Some(255));
    assert!(text(&stopped.stderr).contains("the workspace is stopped"), "{}", text(&stopped.stderr));
}

#[test]
fn bytes_pass_both_ways_at_once_whatever_is_read_when() {
    // More than a connection takes at its full speed while nothing is read.
    const SIZE: usize = 80 << 20;
    let place = with_entry();
    let bytes: Vec<u8> = (0..SIZE).map(|index| (index % 251) as u8).collect();
    // The command reads nothing at first: more than any window has to wait.
    let mut child = ssh(&place, &["demo.kled", "sleep 1; cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut arrived = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            stdin.write_all(&bytes).unwrap();
            drop(stdin);
        });
        stdout.read_to_end(&mut arrived).unwrap();
    });
    assert_eq!(ended(&mut child).code(), Some(0));
    assert!(arrived == bytes, "{} bytes came back", arrived.len());
}

#[test]
fn a_terminal_has_its_kind_and_the_end_of_the_client_ends_the_command() {
    let place = with_entry();
    let shown = ssh(&place, &["-tt", "demo.kled", "tty; echo $TERM"]).output().unwrap();
    let shown = text(&shown.stdout);
    assert!(shown.starts_with("/dev/") && shown.ends_with("\r\nxterm\r\n"), "{shown:?}");

    let mut child = ssh(&place, &["demo.kled", "echo $$ > pid; exec sleep 1000"]).spawn().unwrap();
    let running = || {
        let output = place.script(&[], "kill -0 \"$(cat pid)\"").output().unwrap();
        output.status.success()
    };
    until("the command to run", running);
    child.kill().unwrap();
    child.wait().unwrap();
    until("the command to end", || !running());
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

#[test]
fn a_port_is_forwarded() {
    let place = with_entry();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let remote = listener.local_addr().unwrap().port();
    let local = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let forward = format!("127.0.0.1:{local}:localhost:{remote}");
    let _ssh = Ended(ssh(&place, &["-N", "-L", &forward, "demo.kled"]).spawn().unwrap());
    let mut stream = None;
    until("ssh to listen", || {
        stream = TcpStream::connect(("127.0.0.1", local)).ok();
        stream.is_some()
    });
    let mut stream = stream.unwrap();
    stream.write_all(b"ping").unwrap();
    let (mut served, _) = listener.accept().unwrap();
    let mut said = [0; 4];
    served.read_exact(&mut said).unwrap();
    served.write_all(b"pong").unwrap();
    drop(served);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!((&said, answer.as_str()), (b"ping", "pong"));
}

#[test]
fn files_go_by_scp_and_sftp_where_the_workspace_serves_them() {
    let place = with_entry();
    fs::write(place.path("file"), vec![7; 3 << 20]).unwrap();
    let there = program(&place, "scp").args(["-q", "file", "demo.kled:there"]).output().unwrap();
    if !Path::new("/usr/lib/openssh/sftp-server").exists() {
        assert!(text(&there.stderr).contains("the workspace has no sftp-server"), "{}", text(&there.stderr));
        return;
    }
    succeeded(&there);
    succeeded(&program(&place, "scp").args(["-q", "demo.kled:there", "back"]).output().unwrap());
    assert!(fs::read(place.path("back")).unwrap() == vec![7; 3 << 20]);
    let mut sftp = program(&place, "sftp").args(["-q", "demo.kled"]).stdin(Stdio::piped()).spawn().unwrap();
    sftp.stdin.take().unwrap().write_all(b"get there again\n").unwrap();
    assert_eq!(ended(&mut sftp).code(), Some(0));
    assert_eq!(fs::metadata(place.path("again")).unwrap().len(), 3 << 20);
}

#[test]
fn another_host_key_is_refused() {
    let place = with_entry();
    fs::remove_file(place.path("data/ssh/demo.key")).unwrap();
    let refused = ssh(&place, &["demo.kled", "true"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(255));
    assert!(text(&refused.stderr).contains("Host key verification failed"), "{}", text(&refused.stderr));
    succeeded(&place.run("ssh-config demo"));
    succeeded(&ssh(&place, &["demo.kled", "true"]).output().unwrap());
}

#[test]
fn entries_of_many_writers_stay_and_go_without_a_trace() {
    let place = Place::with_workspace();
    let own = "Host other\n  User me\n";
    fs::create_dir(place.path("home/.ssh")).unwrap();
    fs::write(place.path("home/.ssh/config"), own).unwrap();
    succeeded(&place.run("workspace create two --repo ./repository --quiet"));
    let writers: Vec<_> = ["demo", "two", "demo", "two"]
        .iter()
        .map(|name| place.kled().args(["ssh-config", name]).stdout(Stdio::null()).spawn().unwrap())
        .collect();
    for mut writer in writers {
        assert_eq!(ended(&mut writer).code(), Some(0));
    }
    let config = fs::read_to_string(place.path("home/.ssh/config")).unwrap();
    assert_eq!((config.matches("Include").count(), config.ends_with(own)), (1, true), "{config}");
    for host in ["demo.kled", "two.kled"] {
        succeeded(&ssh(&place, &[host, "true"]).output().unwrap());
    }
    assert_eq!(text(&place.run("ssh-config demo --remove").stdout), "demo.kled\n");
    succeeded(&ssh(&place, &["two.kled", "true"]).output().unwrap());
    succeeded(&place.run("ssh-config --remove"));
    assert_eq!(fs::read_to_string(place.path("home/.ssh/config")).unwrap(), own);
    assert_eq!(place.run("ssh-config nobody").status.code(), Some(3));
}
