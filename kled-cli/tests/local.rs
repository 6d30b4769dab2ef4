//! The program with the local provider: real repositories, real processes, a real terminal.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is how a test fails")]

mod place;

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use place::{DEADLINE, Place, ended, send, succeeded, text, until};
use rustix::process::Signal;

fn processes_with(argument: &str) -> usize {
    let holds = |entry: io::Result<fs::DirEntry>| {
        let line = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        line.split(|byte| *byte == 0).any(|part| part == argument.as_bytes()).then_some(())
    };
    fs::read_dir("/proc").unwrap().filter_map(holds).count()
}

#[test]
fn a_workspace_from_create_to_delete() {
    let place = Place::new();
    let created = place.run("workspace create demo --repo ./repository");
    succeeded(&created);
    assert!(text(&created.stdout).starts_with("NAME"), "{}", text(&created.stdout));
    assert!(text(&created.stderr).starts_with("[1/"), "a pipe gets plain steps: {}", text(&created.stderr));
    assert_eq!(text(&place.run("workspace exec demo -- cat README.md").stdout), "hello\n");
    succeeded(&place.script(&[], "echo kept > kept.txt").output().unwrap());
    succeeded(&place.run("workspace stop demo"));
    assert_eq!(place.run("workspace exec demo -- true").status.code(), Some(4));
    succeeded(&place.run("workspace start demo"));
    assert_eq!(text(&place.run("workspace exec demo -- cat kept.txt").stdout), "kept\n");
    succeeded(&place.run("workspace delete demo"));
    assert_eq!(place.run("workspace status demo").status.code(), Some(3));
}

#[test]
fn errors_of_the_checkout_have_their_codes() {
    let place = Place::new();
    let missing = place.run("workspace create one --repo ./nowhere --quiet");
    assert_eq!(missing.status.code(), Some(3), "{}", text(&missing.stderr));
    let branch = place.run("workspace create two --repo ./repository --branch nowhere --quiet");
    assert_eq!(branch.status.code(), Some(3), "{}", text(&branch.stderr));
    assert!(text(&branch.stderr).contains("hint: ") || text(&branch.stderr).contains("nowhere"));
}

#[test]
fn a_set_up_that_fails_says_why_and_the_same_create_goes_on() {
    let place = Place::new();
    let create = "if test -e tried; then echo now it works; else touch tried; echo no toolchain; exit 3; fi";
    place.commit(".kled.yaml", &format!("setup:\n  create: {create}\n"));
    let failed = place.run("workspace create demo --repo ./repository");
    let said = text(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{said}");
    assert!(said.contains("exit code 3: no toolchain") && said.contains("hint: "), "{said}");
    assert_eq!(place.state("demo").as_deref(), Some("interrupted"));
    let created = place.run("workspace create demo --repo ./repository");
    succeeded(&created);
    assert!(text(&created.stderr).contains("now it works"), "{}", text(&created.stderr));
    assert!(text(&place.run("workspace logs demo").stdout).contains("now it works"));
}

#[test]
fn without_a_sandbox_a_project_is_set_up_where_the_configuration_says_so() {
    let place = Place::new();
    place.commit(".kled.yaml", "setup:\n  create: echo done > set-up\n");
    let left_out = place.run("workspace create first --repo ./repository --isolation none");
    succeeded(&left_out);
    assert!(text(&left_out.stderr).contains("the project is not set up"), "{}", text(&left_out.stderr));
    assert_ne!(place.run("workspace exec first -- cat set-up").status.code(), Some(0));
    fs::create_dir_all(place.path("home/.config/kled")).unwrap();
    fs::write(
        place.path("home/.config/kled/config.toml"),
        "[providers.local]\nset-up-without-sandbox = true\n",
    )
    .unwrap();
    succeeded(&place.run("workspace create second --repo ./repository --isolation none"));
    assert_eq!(text(&place.run("workspace exec second -- cat set-up").stdout), "done\n");
}

#[test]
fn exit_codes_and_streams_pass_through() {
    let place = Place::with_workspace();
    let both = place.script(&[], "echo out; echo err >&2; exit 42").output().unwrap();
    assert_eq!(
        (both.status.code(), text(&both.stdout), text(&both.stderr)),
        (Some(42), "out\n".into(), "err\n".into())
    );
    assert_eq!(place.script(&[], "kill -9 $$").output().unwrap().status.code(), Some(137));
    assert_eq!(place.run("workspace exec demo -- no-such-program").status.code(), Some(127));
    assert_eq!(place.run("workspace exec demo -- ./README.md").status.code(), Some(126));
    let environment = place.script(&["-e", "A=1", "-w", ".."], "echo $A; pwd").output().unwrap();
    assert!(text(&environment.stdout).starts_with("1\n/"), "{}", text(&environment.stdout));
}

#[test]
fn a_hundred_megabytes_arrive_unchanged() {
    const SIZE: usize = 100 << 20;
    let place = Place::with_workspace();
    let mut child = place
        .kled()
        .args(["workspace", "exec", "demo", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // A period that no power of two divides, so that a chunk that is lost or doubled shows.
    let byte = |index: usize| (index % 251) as u8;
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..SIZE).map(byte).collect();
        stdin.write_all(&bytes).unwrap();
    });
    let mut arrived = Vec::with_capacity(SIZE);
    child.stdout.take().unwrap().read_to_end(&mut arrived).unwrap();
    writer.join().unwrap();
    assert_eq!((ended(&mut child).code(), arrived.len()), (Some(0), SIZE));
    assert!(arrived.iter().enumerate().all(|(index, arrived)| *arrived == byte(index)));
}

#[test]
fn an_interrupt_goes_to_the_command_and_a_second_one_ends_it() {
    let place = Place::with_workspace();
    let ready = |child: &mut Child| {
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        stdout
    };
    let polite = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done";
    let mut child = place.script(&[], polite).spawn().unwrap();
    let mut stdout = ready(&mut child);
    send(&child, Signal::INT);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((ended(&mut child).code(), rest.as_str()), (Some(5), "caught\n"));

    let stubborn = "trap '' INT; echo ready; sleep 100.25; sleep 100.25";
    let mut child = place.script(&[], stubborn).spawn().unwrap();
    let _stdout = ready(&mut child);
    until("the command to run", || processes_with("100.25") > 0);
    send(&child, Signal::INT);
    until("the second interrupt to end it", || {
        send_if_running(&mut child, Signal::INT);
        child.try_wait().unwrap().is_some()
    });
    assert_eq!(ended(&mut child).code(), Some(130));
    until("everything that it started to end", || processes_with("100.25") == 0);
}

fn send_if_running(child: &mut Child, signal: Signal) {
    if child.try_wait().unwrap().is_none() {
        send(child, signal);
    }
}

#[test]
fn a_reader_that_is_gone_ends_the_command() {
    let place = Place::with_workspace();
    let mut child = place.script(&[], "while :; do echo endless 100.5; done").spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(ended(&mut child).code(), Some(141));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn a_detached_command_outlives_the_program_and_writes_to_the_logs() {
    let place = Place::with_workspace();
    let started = place.script(&["--detach"], "echo from afar; sleep 100.75").output().unwrap();
    succeeded(&started);
    assert!(started.stdout.is_empty());
    until("the line to be in the logs", || {
        text(&place.run("workspace logs demo").stdout).contains("from afar")
    });
    assert_eq!(processes_with("100.75"), 1);
    succeeded(&place.run("workspace stop demo"));
    assert_eq!(processes_with("100.75"), 0);
}

#[test]
fn an_interrupted_create_is_finished_by_the_next() {
    let place = Place::new();
    let mut child = place
        .kled()
        .args(["workspace", "create", "demo", "--repo", "./repository"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut String::new()).unwrap();
    send(&child, Signal::INT);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(ended(&mut child).code(), Some(130), "{rest}");
    assert!(rest.contains("error: interrupted\nhint: "), "{rest}");
    succeeded(&place.run("workspace create demo --repo ./repository"));
    assert_eq!(text(&place.run("workspace exec demo -- cat README.md").stdout), "hello\n");
}

#[test]
fn without_waiting_the_creation_goes_on() {
    let place = Place::new();
    let started = place.run("workspace create demo --repo ./repository --no-wait -o json");
    succeeded(&started);
    let workspace: serde_json::Value = serde_json::from_slice(&started.stdout).unwrap();
    assert_eq!(workspace["name"], "demo");
    until("the workspace to run", || place.state("demo").as_deref() == Some("running"));

    let conflict = place.run("workspace create demo --repo ./repository --cpu 1 --no-wait");
    assert_eq!(conflict.status.code(), Some(4), "{}", text(&conflict.stderr));
    assert!(text(&conflict.stderr).contains("exists with another spec"), "{}", text(&conflict.stderr));
}

/// What a terminal shows, as it comes.
struct Screen {
    pty: pty_process::blocking::Pty,
    bytes: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Screen {
    fn new(pty: pty_process::blocking::Pty) -> Self {
        let mut reader = fs::File::from(rustix::io::dup(&pty).unwrap());
        let (sender, bytes) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end of a terminal is an error on Linux.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { pty, bytes, seen: String::new() }
    }

    fn type_line(&mut self, line: &str) {
        self.seen.clear();
        self.pty.write_all(format!("{line}\r").as_bytes()).unwrap();
    }

    fn expect(&mut self, wanted: &str) {
        let end = Instant::now() + DEADLINE;
        while !self.seen.contains(wanted) {
            let left = end.saturating_duration_since(Instant::now());
            let bytes = self.bytes.recv_timeout(left);
            self.seen += &text(&bytes.unwrap_or_else(|_| panic!("{wanted:?} never came: {:?}", self.seen)));
        }
    }

    fn mode(&self) -> String {
        format!("{:?}", rustix::termios::tcgetattr(&self.pty).unwrap())
    }
}

fn on_a_terminal(place: &Place, line: &str) -> (Screen, Child) {
    let (pty, pts) = pty_process::blocking::open().unwrap();
    pty.resize(pty_process::Size::new(24, 80)).unwrap();
    let command = pty_process::blocking::Command::new(Path::new(env!("CARGO_BIN_EXE_kled")))
        .args(line.split(' '))
        .env_clear()
        .envs(place.variables())
        .current_dir(place.0.path());
    let child = command.spawn(pts).unwrap();
    (Screen::new(pty), child)
}

fn shell(place: &Place) -> (Screen, Child) {
    on_a_terminal(place, "workspace shell demo --shell sh")
}

#[test]
fn a_terminal_gets_a_spinner_and_colours() {
    let place = Place::new();
    let (mut screen, mut child) = on_a_terminal(&place, "workspace create demo --repo ./repository");
    screen.expect("AGE\r\n");
    screen.expect("\u{1b}[32mRunning\u{1b}[0m");
    assert_eq!(ended(&mut child).code(), Some(0));
    let table = screen.seen.find("NAME").unwrap();
    assert!(screen.seen[..table].contains("\u{1b}[2K"), "the spinner's line is cleared: {:?}", screen.seen);
    assert!(!screen.seen.contains("]\r\n"), "no plain lines of progress: {:?}", screen.seen);
}

#[test]
fn a_shell_has_a_terminal_of_the_right_size_and_leaves_it_as_it_was() {
    let place = Place::with_workspace();
    let (pty, pts) = pty_process::blocking::open().unwrap();
    drop(pts);
    let fresh = Screen::new(pty).mode();
    let (mut screen, mut child) = shell(&place);
    screen.type_line("stty size; echo \"$TERM in $PWD\"");
    screen.expect("24 80\r\n");
    screen.expect("xterm in /");
    assert_ne!(screen.mode(), fresh, "keys are passed on as they are typed");
    screen.pty.resize(pty_process::Size::new(40, 100)).unwrap();
    // The new size travels by a signal and the workspace's connection.
    until("the new size to arrive", || {
        screen.type_line("stty size; echo do''ne");
        screen.expect("done\r\n");
        screen.seen.contains("40 100\r\n")
    });
    screen.type_line("exit 7");
    assert_eq!(ended(&mut child).code(), Some(7));
    assert_eq!(screen.mode(), fresh);
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    let place = Place::with_workspace();
    let (mut screen, mut child) = shell(&place);
    screen.type_line("trap '' TERM HUP; echo re''ady");
    screen.expect("ready\r\n");
    let raw = screen.mode();
    send(&child, Signal::TERM);
    until("the program to end", || {
        send_if_running(&mut child, Signal::TERM);
        child.try_wait().unwrap().is_some()
    });
    assert_eq!(ended(&mut child).code(), Some(143));
    assert_ne!(screen.mode(), raw);
}

#[test]
fn a_shell_reads_a_script_where_there_is_no_terminal() {
    let place = Place::with_workspace();
    let mut child = place
        .kled()
        .args(["workspace", "shell", "demo"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"cat README.md\nexit 3\n").unwrap();
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!((ended(&mut child).code(), stdout.as_str()), (Some(3), "hello\n"));
}
