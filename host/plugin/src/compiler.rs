//! Where plugins are compiled: in a process of its own, which may take only so much memory and time, and ends when nobody
//! waits for it any more. What it gives back is machine code, which this node runs: it comes from its own program and
//! through a pipe that nobody else has.

use super::contract;
use super::engine;
use super::load::LoadFault;
use bytesize::ByteSize;
use rlimit::Resource;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Duration;

/// The subcommand of this program that compiles.
pub const COMMAND: &str = "compile-plugin";

/// The program that runs, also where its file was replaced or deleted meanwhile.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// What one compilation may take. An engine for JavaScript takes 400 MB and ten seconds of a processor.
const MEMORY: u64 = 1 << 30;
const PROCESSOR: Duration = Duration::from_secs(60);
const TIME: Duration = Duration::from_secs(180);

/// Address space beside it: programs, stacks, and what allocators reserve for each thread.
const RESERVED: u64 = 3 << 30;

/// Threads that compile one plugin.
const THREADS: usize = 4;

/// Bytes of an error's text.
const MAX_TEXT: usize = 8 * 1024;

/// How the process ends that took too long, for which nobody waits, or to which the system gives no thread.
const TOO_LONG: u8 = 3;
const GIVEN_UP: u8 = 4;
const NO_THREAD: u8 = 5;

/// Who compiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compiler {
    /// This process, without limits: for authors, and for tests whose program is another.
    #[default]
    Here,
    /// A process of this program for each plugin, with limits.
    Child,
}

/// A compilation, which may be given up.
#[derive(Clone, Debug, Default)]
pub struct Compilation(Arc<Mutex<Progress>>);

#[derive(Debug, Default)]
enum Progress {
    #[default]
    Waiting,
    Running(Child),
    Over,
}

/// How a plugin may not have been compiled.
#[derive(Debug)]
enum Outcome {
    Compiled(Vec<u8>),
    Refused(LoadFault),
}

impl Compilation {
    /// Nobody waits for it any more: it ends at once.
    pub fn give_up(&self) {
        if let Progress::Running(mut child) = std::mem::replace(&mut *self.lock(), Progress::Over) {
            child.kill().ok();
            child.wait().ok();
        }
    }

    fn begin(&self, child: Child) {
        let mut progress = self.lock();
        match *progress {
            Progress::Over => {
                drop(progress);
                Self(Arc::new(Mutex::new(Progress::Running(child)))).give_up();
            }
            _ => *progress = Progress::Running(child),
        }
    }

    /// How the process ended; `None`: it was given up.
    fn end(&self) -> Option<io::Result<ExitStatus>> {
        // Its output is at its end, so it is about to.
        match std::mem::replace(&mut *self.lock(), Progress::Over) {
            Progress::Running(mut child) => Some(child.wait()),
            Progress::Waiting | Progress::Over => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Compiler {
    /// Machine code for `engine`, of a file that was [checked](contract::check_file). Blocks.
    pub(super) fn compile(
        self,
        engine: &wasmtime::Engine,
        counts: bool,
        file: &[u8],
        compilation: &Compilation,
    ) -> Result<Vec<u8>, LoadFault> {
        match self {
            Self::Here => here(engine, file),
            Self::Child => in_child(counts, file, compilation),
        }
    }
}

fn here(engine: &wasmtime::Engine, file: &[u8]) -> Result<Vec<u8>, LoadFault> {
    let component = contract::component(file)?;
    let compiled = engine.precompile_component(&component);
    compiled.map_err(|error| LoadFault::Uncompilable(format!("{error:#}")))
}

fn in_child(counts: bool, file: &[u8], compilation: &Compilation) -> Result<Vec<u8>, LoadFault> {
    let mut command = Command::new(THIS_PROGRAM);
    // It is given nothing of this node but its input: no key that is in the environment either.
    command.arg(COMMAND).env_clear().env("RAYON_NUM_THREADS", threads().to_string()).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(LoadFault::NoCompiler)?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (mut input, mut output) = stdin.zip(stdout).expect("both are pipes");
    compilation.begin(child);
    // Where it has ended already, how it did says more than that it does not read.
    request(&mut input, counts, file).ok();
    let mut answer = vec![];
    let read = output.read_to_end(&mut answer);
    drop(input);
    let status = compilation.end().ok_or(LoadFault::GivenUp)?.map_err(LoadFault::NoCompiler)?;
    read.map_err(LoadFault::NoCompiler)?;
    match Outcome::read(answer) {
        Some(Outcome::Compiled(code)) if status.success() => Ok(code),
        Some(Outcome::Refused(fault)) if status.success() => Err(fault),
        _ => Err(ended(status)),
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS)
}

/// Why there is no answer.
fn ended(status: ExitStatus) -> LoadFault {
    const ABORTED: i32 = 6;
    const KILLED: i32 = 9;
    const OUT_OF_TIME: i32 = 24;
    let seconds = PROCESSOR.as_secs();
    let too_much = match (status.code(), status.signal()) {
        (Some(code), _) if code == i32::from(TOO_LONG) => format!("it takes longer than {TIME:?}"),
        (Some(code), _) if code == i32::from(GIVEN_UP) => return LoadFault::GivenUp,
        (Some(code), _) if code == i32::from(NO_THREAD) => {
            let error = io::Error::new(ErrorKind::WouldBlock, "it is given no thread of its own");
            return LoadFault::NoCompiler(error);
        }
        (_, Some(OUT_OF_TIME | KILLED)) => format!("it takes more than {seconds} s of a processor"),
        (_, Some(ABORTED)) => format!("it takes more than {} of memory", ByteSize(MEMORY)),
        _ => format!("the compiler ended without an answer ({status})"),
    };
    LoadFault::Uncompilable(too_much)
}

fn request(to: &mut impl Write, counts: bool, file: &[u8]) -> io::Result<()> {
    to.write_all(&[u8::from(counts)])?;
    to.write_all(&(file.len() as u64).to_le_bytes())?;
    to.write_all(file)?;
    to.flush()
}

/// How much is to be compiled is not believed but read.
fn requested(from: &mut impl Read) -> io::Result<(bool, Vec<u8>)> {
    let (mut counts, mut length) = ([0], [0; 8]);
    from.read_exact(&mut counts)?;
    from.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let mut file = vec![];
    if from.take(length).read_to_end(&mut file)? as u64 != length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok((counts[0] != 0, file))
}

impl Outcome {
    fn of(compiled: Result<Vec<u8>, LoadFault>) -> (u8, Vec<u8>) {
        let text = |text: String| text.into_bytes().into_iter().take(MAX_TEXT).collect();
        match compiled {
            Ok(code) => (b'c', code),
            Err(LoadFault::Shape(why)) => (b's', text(why)),
            Err(LoadFault::Uncompilable(why)) => (b'u', text(why)),
            Err(fault) => (b'u', text(fault.to_string())),
        }
    }

    fn read(mut answer: Vec<u8>) -> Option<Self> {
        let kind = *answer.first()?;
        answer.remove(0);
        let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]).into_owned();
        match kind {
            b'c' => Some(Self::Compiled(answer)),
            b's' => Some(Self::Refused(LoadFault::Shape(text(&answer)))),
            b'u' => Some(Self::Refused(LoadFault::Uncompilable(text(&answer)))),
            _ => None,
        }
    }
}

/// Compiles what comes on standard input, and ends: all of the process that [`Compiler::Child`] starts.
pub fn compile_for_parent() -> ExitCode {
    match limit().and_then(|()| serve()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::WouldBlock => NO_THREAD.into(),
        Err(_) => ExitCode::FAILURE,
    }
}

fn limit() -> io::Result<()> {
    let most = |resource: Resource, most: u64| {
        // What it was given may be less already.
        let (_, hard) = resource.get()?;
        resource.set(most.min(hard), most.min(hard))
    };
    most(Resource::DATA, MEMORY)?;
    most(Resource::AS, MEMORY + RESERVED)?;
    most(Resource::CPU, PROCESSOR.as_secs())?;
    most(Resource::FSIZE, 0)?;
    most(Resource::CORE, 0)
}

fn serve() -> io::Result<()> {
    let mut input = io::stdin();
    let (counts, file) = requested(&mut input)?;
    // The pipe ends with who waits at its other end, however that happens.
    let waited_for = move || {
        io::copy(&mut input, &mut io::sink()).ok();
        std::process::exit(GIVEN_UP.into());
    };
    Builder::new().name("waits for the end".into()).spawn(waited_for)?;
    let clock = || {
        std::thread::sleep(TIME);
        std::process::exit(TOO_LONG.into());
    };
    Builder::new().name("clock".into()).spawn(clock)?;
    let compiled = match engine::compiling(counts) {
        Ok(engine) => here(&engine, &file),
        Err(error) => Err(LoadFault::Uncompilable(error.to_string())),
    };
    let (kind, content) = Outcome::of(compiled);
    let mut output = io::stdout().lock();
    output.write_all(&[kind])?;
    output.write_all(&content)?;
    output.flush()
}
