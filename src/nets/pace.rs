//! A handle that long computations report to, that can stop them, and that says which numbers they compute with.

use super::precision::{Arithmetic, Precision, Stage, Tally};
use crate::{Error, Result};
use burn::tensor::{FloatDType, Tensor};
use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use web_time::Instant;

/// Blocks are queued on a GPU for about so long a time: as long a cancel waits, where a block is no longer than that.
const QUEUED: Duration = Duration::from_millis(30);
/// Most blocks in a queue.
const LONGEST_QUEUE: usize = 8;

/// How far a network evaluation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Blocks finished in this evaluation.
    pub done: usize,
    /// Blocks in one evaluation.
    pub of: usize,
}

/// Runs a network's future to its end in one poll, for callers without an executor; `network` must have been given
/// [`Pace::free`], which never waits.
///
/// # Panics
/// If the future waits.
pub fn now<T>(network: impl Future<Output = T>) -> T {
    match pin!(network).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a network run with Pace::free never waits"),
    }
}

/// What a yielder answers.
pub type Waiting = Pin<Box<dyn Future<Output = Result<()>>>>;
type Yielder = dyn Fn(Tensor<4>) -> Waiting;
type Listener = dyn FnMut(Progress);

/// Handed to every network evaluation: between two blocks the network calls [`Pace::checkpoint`].
///
/// A checkpoint does three things: it fails with [`Error::Cancelled`] once [`Pace::cancel`] was called, so that a run
/// stops *inside* a step; it reports [`Progress`]; and every time, or after as many blocks as a GPU computes in a moment, it
/// waits for the yielder, which lets an event loop run and bounds the work queued on a GPU.
///
/// [`Pace::free`] never waits and never fails: with it every network future is ready at the first poll, so that
/// the trainer may run it to completion without an executor.
#[derive(Clone, Default)]
pub struct Pace {
    inner: Option<Rc<Inner>>,
    /// None computes in f32 and keeps no account.
    tally: Option<Rc<RefCell<Tally>>>,
}

struct Inner {
    cancelled: Cell<bool>,
    queue: RefCell<Queue>,
    yielder: Option<Box<Yielder>>,
    on_progress: RefCell<Option<Box<Listener>>>,
    /// Those who wait for something else and must hear of a cancel.
    waiting: RefCell<Vec<Waker>>,
}

/// How many blocks are computed between two waits.
struct Queue {
    passed: usize,
    length: usize,
    longest: usize,
    /// When the last wait ended.
    waited: Instant,
}

impl Queue {
    fn new(longest: usize) -> Self {
        Self { passed: 0, length: 1, longest, waited: Instant::now() }
    }

    /// Whether one block more fills it.
    fn fill(&mut self) -> bool {
        self.passed += 1;
        self.passed >= self.length
    }

    /// All of it is computed: the next one is to take about [`QUEUED`].
    fn emptied(&mut self, now: Instant) {
        let block = (now - self.waited).as_secs_f64() / self.passed.max(1) as f64;
        // The conversion saturates.
        self.length = ((QUEUED.as_secs_f64() / block) as usize).clamp(1, self.longest);
        (self.passed, self.waited) = (0, now);
    }
}

impl Pace {
    /// A pace that never waits and cannot be cancelled.
    pub fn free() -> Self {
        Self::default()
    }

    /// A pace that can be cancelled, without a yielder.
    pub fn cancellable() -> Self {
        Self::with(1, None)
    }

    /// A pace that awaits `yielder()` at every checkpoint.
    pub fn yielding(yielder: impl Fn() -> Waiting + 'static) -> Self {
        Self::with(1, Some(Box::new(move |_| yielder())))
    }

    /// A pace that waits for the device, by reading one element back, whenever it has about 30 ms of work: that bounds how
    /// long a cancel takes by one block or these 30 ms, whichever is longer. Then it awaits `yielder()`.
    pub fn queueing(yielder: impl Fn() -> Waiting + 'static) -> Self {
        let wait = move |activation: Tensor<4>| -> Waiting {
            let turn = yielder();
            Box::pin(async move {
                read(activation.slice([0..1, 0..1, 0..1, 0..1])).await?;
                turn.await
            })
        };
        Self::with(LONGEST_QUEUE, Some(Box::new(wait)))
    }

    fn with(longest: usize, yielder: Option<Box<Yielder>>) -> Self {
        Self {
            inner: Some(Rc::new(Inner {
                cancelled: Cell::new(false),
                queue: RefCell::new(Queue::new(longest)),
                yielder,
                on_progress: RefCell::new(None),
                waiting: RefCell::default(),
            })),
            tally: None,
        }
    }

    /// This pace for one drawing, whose networks are to compute in `precision`.
    pub fn computing_in(&self, precision: Precision) -> Self {
        Self { tally: Some(Rc::new(RefCell::new(Tally::new(precision)))), ..self.clone() }
    }

    /// What the networks computed in so far, after [`Pace::computing_in`].
    pub fn arithmetic(&self) -> Option<Arithmetic> {
        self.tally.as_ref().map(|tally| tally.borrow().arithmetic())
    }

    /// Evaluates `network`, which is told the type of its sample; answers its output in f32.
    ///
    /// What comes out of f16 is looked at: where it is not finite, `network` is evaluated again in f32, and so is all that the
    /// stage evaluates after that. The look is a sum that is read back.
    ///
    /// # Errors
    /// Those of `network`; [`Error::Device`] if the device failed.
    pub async fn evaluate(
        &self,
        stage: Stage,
        network: impl AsyncFn(FloatDType) -> Result<Tensor<4>>,
    ) -> Result<Tensor<4>> {
        let precision = self.tally.as_ref().map_or(Precision::F32, |tally| tally.borrow_mut().begin(stage));
        let output = network(precision.dtype()).await?.cast(FloatDType::F32);
        match &self.tally {
            // In f32 a sum of numbers that f16 holds is finite, and that of any others is not.
            Some(tally) if precision == Precision::F16 && !read(output.clone().sum()).await?.is_finite() => {
                tally.borrow_mut().overflow(stage);
                network(FloatDType::F32).await
            }
            _ => Ok(output),
        }
    }

    /// Calls `listener` at every checkpoint.
    pub fn on_progress(&self, listener: impl FnMut(Progress) + 'static) {
        if let Some(inner) = &self.inner {
            *inner.on_progress.borrow_mut() = Some(Box::new(listener));
        }
    }

    /// Makes the next checkpoint, and all after it, fail.
    pub fn cancel(&self) {
        if let Some(inner) = &self.inner {
            inner.cancelled.set(true);
            inner.waiting.take().into_iter().for_each(Waker::wake);
        }
    }

    /// What `work` answers, unless this is cancelled first: then `work` is dropped at once.
    ///
    /// # Errors
    /// [`Error::Cancelled`], and those of `work`.
    pub async fn race<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = pin!(work);
        std::future::poll_fn(|context| {
            if let Err(cancelled) = self.check() {
                return Poll::Ready(Err(cancelled));
            }
            if let Some(inner) = &self.inner {
                let waiting = &mut *inner.waiting.borrow_mut();
                if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                    waiting.push(context.waker().clone());
                }
            }
            work.as_mut().poll(context)
        })
        .await
    }

    /// Whether [`Pace::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.cancelled.get())
    }

    /// Called by a network between two blocks.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or the yielder's error.
    pub async fn checkpoint(&self, done: usize, of: usize, activation: &Tensor<4>) -> Result<()> {
        let Some(inner) = &self.inner else {
            return Ok(());
        };
        self.check()?;
        if let Some(listener) = inner.on_progress.borrow_mut().as_mut() {
            listener(Progress { done, of });
        }
        if let Some(yielder) = &inner.yielder
            && inner.queue.borrow_mut().fill()
        {
            yielder(activation.clone()).await?;
            inner.queue.borrow_mut().emptied(Instant::now());
        }
        self.check()
    }

    /// Fails if cancelled.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// The one element of `tensor`.
async fn read<const D: usize>(tensor: Tensor<D>) -> Result<f32> {
    let data = tensor.into_data_async().await.map_err(|error| Error::Device(format!("{error:?}")))?;
    // Where there are threads the answer comes before the bytes: looking at them is what waits.
    Ok(data.iter::<f32>().next().expect("one element"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use pollster::block_on;

    /// A network whose answer is `value`; counts its evaluations.
    async fn one(pace: &Pace, stage: Stage, value: f32, count: &Cell<usize>) -> f32 {
        let network = async |dtype| {
            count.set(count.get() + 1);
            Ok(Tensor::<4>::full([1, 1, 2, 2], value, &Device::flex()).cast(dtype))
        };
        let output = pace.evaluate(stage, network).await.expect("a working device");
        assert_eq!(output.dtype(), FloatDType::F32.into());
        output.into_data().iter::<f32>().next().expect("four")
    }

    #[test]
    fn a_queue_is_as_long_as_its_blocks_are_short() {
        let mut queue = Queue::new(8);
        assert!(queue.fill(), "the first block is waited for");
        let mut now = queue.waited;
        for (block, length) in [(1.0, 1), (0.012, 2), (0.005, 6), (0.0, 8), (0.029, 1)] {
            now += Duration::from_secs_f64(block * queue.passed as f64);
            queue.emptied(now);
            assert_eq!(queue.length, length, "blocks of {block} s");
            let filled: Vec<bool> = (0..length).map(|_| queue.fill()).collect();
            assert_eq!(filled.iter().position(|full| *full), Some(length - 1));
        }
    }

    #[test]
    fn an_overflow_moves_one_stage_to_f32() {
        block_on(async {
            let (pace, count) = (Pace::free().computing_in(Precision::F16), Cell::new(0));
            assert_eq!(one(&pace, Stage::Denoise, 2.0, &count).await, 2.0);
            assert_eq!(count.get(), 1);
            assert_eq!(one(&pace, Stage::Denoise, -7e4, &count).await, -7e4);
            assert_eq!(count.get(), 3, "once more in f32");
            assert_eq!(one(&pace, Stage::Denoise, 7e4, &count).await, 7e4);
            assert_eq!(count.get(), 4, "at once in f32");
            assert_eq!(one(&pace, Stage::Autoencoder, 0.1, &count).await, f16(0.1));
            let found = pace.arithmetic().expect("an account");
            assert_eq!((found.denoise, found.autoencoder), (Precision::F32, Precision::F16));
            let at = |overflow: &crate::nets::precision::Overflow| (overflow.stage, overflow.evaluation);
            assert_eq!(found.overflows.iter().map(at).collect::<Vec<_>>(), [(Stage::Denoise, 2)]);
        });
    }

    #[test]
    fn what_f32_is_too_small_for_is_answered_as_it_is() {
        let (pace, count) = (Pace::free().computing_in(Precision::F16), Cell::new(0));
        assert!(block_on(one(&pace, Stage::Denoise, f32::NAN, &count)).is_nan());
        assert_eq!(count.get(), 2);
        assert_eq!(
            block_on(one(&Pace::free(), Stage::Denoise, 0.1, &count)),
            0.1,
            "f32, unless somebody says otherwise"
        );
    }

    fn f16(value: f32) -> f32 {
        half::f16::from_f32(value).to_f32()
    }
}
