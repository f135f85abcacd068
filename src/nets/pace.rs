//! A handle that long computations report to, that can stop them, and that says which numbers they compute with.

use super::precision::{Arithmetic, Precision, Stage, Tally};
use crate::{Error, Result, weights::turn};
use burn::tensor::{FloatDType, Tensor};
use futures_util::FutureExt;
use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

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

type Yielder = dyn Fn(Tensor<4>) -> Pin<Box<dyn Future<Output = Result<()>>>>;
type Listener = dyn FnMut(Progress);

/// Handed to every network evaluation: between two blocks the network calls [`Pace::checkpoint`].
///
/// A checkpoint does three things: it fails with [`Error::Cancelled`] once [`Pace::cancel`] was called, so that a run
/// stops *inside* a step; it reports [`Progress`]; and every `every`-th time it waits for the yielder, which lets an
/// event loop run and bounds the work queued on a GPU.
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
    passed: Cell<usize>,
    every: usize,
    yielder: Option<Box<Yielder>>,
    on_progress: RefCell<Option<Box<Listener>>>,
    /// Those who wait for something else and must hear of a cancel.
    waiting: RefCell<Vec<Waker>>,
}

impl Pace {
    /// A pace that never waits and cannot be cancelled.
    pub fn free() -> Self {
        Self::default()
    }

    /// A pace that can be cancelled, without a yielder.
    pub fn cancellable() -> Self {
        Self::new(1, None)
    }

    /// A pace that awaits `yielder(activation)` at every `every`-th checkpoint (`every >= 1`).
    ///
    /// The yielder gets the block's output, so that it may read one element back: on a GPU that is what bounds the
    /// work in flight.
    pub fn new(every: usize, yielder: Option<Box<Yielder>>) -> Self {
        Self {
            inner: Some(Rc::new(Inner {
                cancelled: Cell::new(false),
                passed: Cell::new(0),
                every: every.max(1),
                yielder,
                on_progress: RefCell::new(None),
                waiting: RefCell::default(),
            })),
            tally: None,
        }
    }

    /// A pace that waits for the device at every `every`-th checkpoint, by reading one element back: that bounds the
    /// work in flight on a GPU. What else its caller waits for then has its turn.
    pub fn reading_back(every: usize) -> Self {
        let yielder = |activation| async {
            wait_for(activation).await?;
            turn().await;
            Ok(())
        };
        Self::new(every, Some(Box::new(move |activation| Box::pin(yielder(activation)))))
    }

    /// A pace that lets what else its caller waits for, such as weights that arrive, have its turn at every checkpoint.
    pub fn taking_turns() -> Self {
        Self::new(1, Some(Box::new(|_| Box::pin(turn().map(Ok)))))
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
        inner.passed.set(inner.passed.get() + 1);
        if let Some(yielder) = &inner.yielder
            && inner.passed.get().is_multiple_of(inner.every)
        {
            yielder(activation.clone()).await?;
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

/// Waits until `activation` is computed.
///
/// # Errors
/// [`Error::Device`] if the device failed.
pub async fn wait_for(activation: Tensor<4>) -> Result<()> {
    read(activation.slice([0..1, 0..1, 0..1, 0..1])).await.map(|_| ())
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
