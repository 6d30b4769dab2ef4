//! Programs that run in an image with nothing else in it.

use std::fmt;
use std::fs;
use std::path::Path;

use kled_core::{Error, ErrorKind, Result};
use object::LittleEndian;
use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};
use oci_spec::image::Arch;
use serde::Serialize;

use super::file_error;

/// An architecture that images are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Architecture {
    /// 64-bit x86.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Architecture {
    /// As the OCI names it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The target of the Rust compiler for static programs.
    #[must_use]
    pub const fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }

    fn of_machine(machine: u16) -> Result<Self> {
        let name = match machine {
            elf::EM_X86_64 => return Ok(Self::Amd64),
            elf::EM_AARCH64 => return Ok(Self::Arm64),
            elf::EM_RISCV => "riscv64".to_owned(),
            other => format!("ELF machine {other}"),
        };
        Err(unknown_architecture(&name))
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl From<Architecture> for Arch {
    fn from(architecture: Architecture) -> Self {
        match architecture {
            Architecture::Amd64 => Self::Amd64,
            Architecture::Arm64 => Self::ARM64,
        }
    }
}

/// A program for Linux that needs no other file: it runs in an image that has nothing else.
#[derive(Clone)]
pub struct StaticProgram {
    architecture: Architecture,
    content: Vec<u8>,
}

impl StaticProgram {
    /// Reads and checks a program. Blocks: call it on a thread that may.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such file. [`ErrorKind::InvalidInput`] when it is no program for Linux,
    /// is cut short, or is dynamic: it then names the loader that an image would have to have.
    /// [`ErrorKind::Unsupported`] for an architecture that no [`Architecture`] stands for.
    pub fn read(file: &Path) -> Result<Self> {
        let content =
            fs::read(file).map_err(|cause| file_error("the program cannot be read", file, cause))?;
        let architecture = check(&content).map_err(|error| error.with("file", file.display()))?;
        Ok(Self { architecture, content })
    }

    /// What it was built for.
    #[must_use]
    pub const fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// The bytes of the program.
    #[must_use]
    pub fn into_content(self) -> Vec<u8> {
        self.content
    }
}

impl fmt::Debug for StaticProgram {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("StaticProgram");
        debug.field("architecture", &self.architecture).field("size", &self.content.len()).finish()
    }
}

fn check(content: &[u8]) -> Result<Architecture> {
    check_class(content)?;
    let header = FileHeader64::<LittleEndian>::parse(content).map_err(cut_short)?;
    let endian = LittleEndian;
    let architecture = Architecture::of_machine(header.e_machine(endian))?;
    // A static program that can be loaded anywhere has the type of a library, and an entry point, which those lack.
    if !matches!(header.e_type(endian), elf::ET_EXEC | elf::ET_DYN) || header.e_entry(endian) == 0 {
        return Err(invalid("the file is an object or a library, not a program"));
    }
    for segment in header.program_headers(endian, content).map_err(cut_short)? {
        if segment.p_type(endian) == elf::PT_LOAD && segment.data(endian, content).is_err() {
            return Err(invalid("the program is cut short").hint("build or copy it again"));
        }
        if let Some(loader) = segment.interpreter(endian, content).map_err(cut_short)? {
            return Err(dynamic(architecture).with("loader", String::from_utf8_lossy(loader)));
        }
        let needed = segment.dynamic(endian, content).map_err(cut_short)?.unwrap_or_default();
        if needed.iter().any(|entry| entry.d_tag(endian) == elf::DT_NEEDED) {
            return Err(dynamic(architecture));
        }
    }
    Ok(architecture)
}

/// What can be told from the first bytes: which kind of file it is.
fn check_class(content: &[u8]) -> Result<()> {
    if !content.starts_with(&elf::ELFMAG) {
        return Err(invalid("the file is no program for Linux").hint("give a static ELF program"));
    }
    // Of the identification, the class and the byte order follow the magic number.
    if content.get(4..6) == Some(&[elf::ELFCLASS64, elf::ELFDATA2LSB]) {
        return Ok(());
    }
    Err(unknown_architecture("32-bit or big-endian"))
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

fn cut_short(cause: object::read::Error) -> Error {
    invalid("the program is cut short or malformed").because(cause).hint("build or copy it again")
}

fn dynamic(architecture: Architecture) -> Error {
    invalid("the program is dynamic, and an image has no loader and no libraries for it")
        .hint(format!("build it static: cargo build --target {}", architecture.target()))
}

fn unknown_architecture(name: &str) -> Error {
    Error::new(ErrorKind::Unsupported, "no image is made for the program's architecture")
        .with("architecture", name)
        .hint("build the program for amd64 (x86_64) or arm64 (aarch64)")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A loadable segment that covers the file.
    const LOAD: (u32, &[u8]) = (elf::PT_LOAD, b"");

    /// The smallest file that the kernel would take for a program: a header, segments and what they hold.
    fn elf_file(kind: u16, machine: u16, segments: &[(u32, &[u8])]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([kind, machine, 1, 0].iter().flat_map(|half| half.to_le_bytes()));
        file.extend([0x40_0000_u64, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
        let count = u16::try_from(segments.len()).unwrap();
        file.extend([0, 0, 64, 56, count, 0, 0, 0].iter().flat_map(|half: &u16| half.to_le_bytes()));
        let mut offset = 64 + 56 * segments.len() as u64;
        for (kind, content) in segments {
            let size = content.len() as u64;
            file.extend([*kind, 5].iter().flat_map(|word| word.to_le_bytes()));
            file.extend([offset, offset, offset, size, size, 8].iter().flat_map(|word| word.to_le_bytes()));
            offset += size;
        }
        segments.iter().for_each(|(_, content)| file.extend(*content));
        file
    }

    /// A static program for amd64.
    pub(in crate::image) fn static_program() -> Vec<u8> {
        elf_file(elf::ET_EXEC, elf::EM_X86_64, &[LOAD])
    }

    fn refused(file: &[u8]) -> Error {
        check(file).unwrap_err()
    }

    #[test]
    fn a_static_program_is_told_its_architecture() {
        assert_eq!(check(&static_program()).unwrap(), Architecture::Amd64);
        // As `-static-pie` makes it: of the type of a library, with a dynamic section that needs nothing.
        let flags: Vec<u8> =
            [0x6fff_fffb_u64, 0x0800_0000, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        let movable = elf_file(elf::ET_DYN, elf::EM_AARCH64, &[LOAD, (elf::PT_DYNAMIC, &flags)]);
        assert_eq!(check(&movable).unwrap(), Architecture::Arm64);
    }

    #[test]
    fn a_dynamic_program_is_refused_with_its_loader_and_what_to_do() {
        let loader = (elf::PT_INTERP, b"/lib64/ld-linux-x86-64.so.2\0".as_slice());
        let error = refused(&elf_file(elf::ET_DYN, elf::EM_X86_64, &[LOAD, loader]));
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().ends_with("(loader: /lib64/ld-linux-x86-64.so.2)"), "{error}");
        assert!(error.hint_text().unwrap().contains("x86_64-unknown-linux-musl"));
    }

    #[test]
    fn a_program_with_libraries_and_no_loader_is_dynamic() {
        let needed: Vec<u8> = [1_u64, 1, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        let error = refused(&elf_file(elf::ET_DYN, elf::EM_AARCH64, &[LOAD, (elf::PT_DYNAMIC, &needed)]));
        assert!(error.message().contains("dynamic"), "{error}");
        assert!(error.hint_text().unwrap().contains("aarch64-unknown-linux-musl"));
    }

    #[test]
    fn what_is_no_program_is_refused() {
        for other in [b"".as_slice(), b"#!/bin/sh\n", b"MZ\x90", b"\xcf\xfa\xed\xfe", b"\x7fEL"] {
            let error = refused(other);
            assert_eq!(
                (error.kind(), error.message()),
                (ErrorKind::InvalidInput, "the file is no program for Linux")
            );
        }
        assert!(refused(&elf_file(elf::ET_REL, elf::EM_X86_64, &[])).message().contains("not a program"));
        let mut library = elf_file(elf::ET_DYN, elf::EM_X86_64, &[LOAD]);
        library[24..32].fill(0);
        assert!(refused(&library).message().contains("library"));
    }

    #[test]
    fn another_architecture_is_named() {
        let error = refused(&elf_file(elf::ET_EXEC, elf::EM_RISCV, &[LOAD]));
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("(architecture: riscv64)"), "{error}");
        let mut narrow = static_program();
        narrow[4] = elf::ELFCLASS32;
        assert_eq!(refused(&narrow).kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn a_program_that_was_cut_anywhere_is_refused() {
        let whole = elf_file(elf::ET_EXEC, elf::EM_X86_64, &[(elf::PT_LOAD, &[0x90; 100])]);
        check(&whole).unwrap();
        for length in 0..whole.len() {
            refused(&whole[..length]);
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_not_found() {
        let error = StaticProgram::read(Path::new("/nowhere/kled-agent")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("/nowhere/kled-agent"), "{error}");
    }
}
