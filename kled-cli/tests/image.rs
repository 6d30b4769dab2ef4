//! `kled image save`: what is in the file, and what is left when it cannot be written.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is how a test fails")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The smallest static program for Linux on arm64: a header and one segment with nothing in it.
fn static_program() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let (executable, arm64) = (2_u16, 183_u16);
    file.extend([executable, arm64, 1, 0].iter().flat_map(|half| half.to_le_bytes()));
    file.extend([0x40_0000_u64, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    file.extend([0_u16, 0, 64, 56, 1, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    let loadable = 1_u64;
    file.extend([loadable, 0, 0, 0, 0, 0, 4096].iter().flat_map(|word| word.to_le_bytes()));
    file
}

/// A folder with the program `kled` in it, and nothing beside it.
fn installed() -> TempDir {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::hard_link(env!("CARGO_BIN_EXE_kled"), folder.path().join("kled")).unwrap();
    folder
}

fn run(folder: &TempDir, line: &str) -> Output {
    let mut command = Command::new(folder.path().join("kled"));
    command.env_clear().current_dir(folder).stdin(Stdio::null());
    command.args(line.split_whitespace()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What is said about a run that must fail with this code, the folder's name left out.
fn stderr(folder: &TempDir, output: &Output, code: i32) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(code), b"".as_slice()), "{said}");
    said.replace(folder.path().to_str().unwrap(), "<folder>")
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn files(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
    let read = |entry: std::io::Result<tar::Entry<'_, fs::File>>| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path().unwrap().to_string_lossy().into_owned(), content)
    };
    archive.entries().unwrap().map(read).collect()
}

#[test]
fn the_images_are_those_that_are_listed() {
    let folder = installed();
    fs::write(folder.path().join("kled-agent"), static_program()).unwrap();
    let saved: Value =
        serde_json::from_str(&stdout(&run(&folder, "image save -o images.tar --output json"))).unwrap();
    let files = files(&folder.path().join("images.tar"));
    let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    let manifest = &index["manifests"][0];
    let reference = concat!("docker.io/kled/workspace-agent:", env!("CARGO_PKG_VERSION"));
    let image = &saved["images"][0];
    assert_eq!(saved["file"], "images.tar");
    assert_eq!(saved["images"].as_array().unwrap().len(), index["manifests"].as_array().unwrap().len());
    assert_eq!(image["reference"], reference);
    assert_eq!(image["architecture"], "arm64");
    assert_eq!(image["digest"], manifest["digest"]);
    assert_eq!(manifest["annotations"]["org.opencontainers.image.ref.name"], reference);
    let blobs = files.iter().filter(|(path, _)| path.starts_with("blobs/"));
    assert_eq!(image["size"], blobs.map(|(_, blob)| blob.len()).sum::<usize>());
}

#[test]
fn people_get_a_table() {
    let folder = installed();
    fs::write(folder.path().join("agent"), static_program()).unwrap();
    let said = stdout(&run(&folder, "image save --agent agent -o images.tar"));
    let [headings, row] = said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
    let words: Vec<_> = row.split_whitespace().collect();
    assert_eq!(headings.split_whitespace().collect::<Vec<_>>(), ["IMAGE", "ARCHITECTURE", "SIZE", "DIGEST"]);
    assert_eq!(words[1..4], ["arm64", "0.1", "MB"]);
    assert!(words[0].ends_with(env!("CARGO_PKG_VERSION")) && words[4].starts_with("sha256:"), "{said}");
}

#[test]
fn both_meanings_of_the_short_option_hold() {
    let folder = installed();
    fs::write(folder.path().join("agent"), static_program()).unwrap();
    let before = stdout(&run(&folder, "-o json image save --agent agent -o images.tar"));
    let after = stdout(&run(&folder, "image save --agent agent -o images.tar --output json"));
    assert_eq!(before, after);
    assert!(serde_json::from_str::<Value>(&before).unwrap()["images"][0].is_object());
    assert_eq!(names(folder.path()), ["agent", "images.tar", "kled"]);
    // A file is no format, also where the line is malformed: then the variable says how errors are printed.
    let mut malformed = Command::new(folder.path().join("kled"));
    malformed.args(["image", "save", "-o", "images.tar", "--nonsense"]).env("KLED_OUTPUT", "json");
    let error: Value = serde_json::from_slice(&malformed.output().unwrap().stderr).unwrap();
    assert_eq!(error["error"]["exitCode"], 2);
}

#[test]
fn the_same_program_gives_the_same_file_in_place_of_an_old_one() {
    let folder = installed();
    let (program, archive) = (folder.path().join("agent"), folder.path().join("images.tar"));
    fs::write(&program, static_program()).unwrap();
    fs::write(&archive, "old").unwrap();
    stdout(&run(&folder, "image save --agent agent -o images.tar"));
    let first = fs::read(&archive).unwrap();
    stdout(&run(&folder, "image save --agent agent -o images.tar"));
    assert_eq!(fs::read(&archive).unwrap(), first);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |file: &Path| fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode(&archive), mode(&program), "the permissions are not those of any new file");
        // A link stays, and what it leads to is replaced.
        let link = folder.path().join("link.tar");
        fs::write(&archive, "old").unwrap();
        std::os::unix::fs::symlink("images.tar", &link).unwrap();
        stdout(&run(&folder, "image save --agent agent -o link.tar"));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&archive).unwrap(), first);
    }
}

#[test]
fn a_program_that_is_not_there_is_told_with_what_to_do() {
    let folder = installed();
    let said = ["", "--agent nowhere"]
        .map(|option| stderr(&folder, &run(&folder, &format!("image save -o images.tar {option}")), 3));
    insta::assert_snapshot!(said.concat(), @"
    error: the program of an image does not exist (file: <folder>/kled-agent)
    hint: put kled-agent beside this program, or name the file with --agent
    error: the program of an image does not exist (file: <folder>/nowhere)
    hint: put kled-agent beside this program, or name the file with --agent
    ");
    assert_eq!(names(folder.path()), ["kled"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_dynamic_program_is_refused() {
    let folder = installed();
    let said = stderr(&folder, &run(&folder, "image save -o images.tar --agent kled"), 2);
    assert!(said.starts_with("error: the program is dynamic") && said.contains("loader: /lib"), "{said}");
    assert!(said.contains("\nhint: build it static: cargo build --target "), "{said}");
    assert_eq!(names(folder.path()), ["kled"]);
}

#[test]
fn what_cannot_be_a_file_is_left_as_it_is() {
    let folder = installed();
    fs::write(folder.path().join("agent"), static_program()).unwrap();
    let made = Command::new("mkfifo").arg(folder.path().join("pipe")).status().unwrap();
    assert!(made.success());
    let mut said = String::new();
    for place in [".", "pipe", "missing/images.tar", "agent/images.tar"] {
        said += &stderr(&folder, &run(&folder, &format!("image save --agent agent -o {place}")), 2);
    }
    insta::assert_snapshot!(said, @"
    error: not a file that can be replaced (file: <folder>/.)
    hint: name a file with -o, for example kled-images.tar
    error: not a file that can be replaced (file: <folder>/pipe)
    hint: name a file with -o, for example kled-images.tar
    error: the folder of the archive does not exist (folder: <folder>/missing)
    hint: make the folder first, or name another with -o
    error: the folder of the archive does not exist (folder: <folder>/agent)
    hint: make the folder first, or name another with -o
    ");
    assert_eq!(names(folder.path()), ["agent", "kled", "pipe"]);
    stderr(&folder, &run(&folder, "image save --agent agent"), 2);
}
