"""Training: pure step, loop, optimizer and checkpoints."""

from jaxdistill.train.balance import GradientBalance as GradientBalance
from jaxdistill.train.balance import last_shared_layer as last_shared_layer
from jaxdistill.train.checkpoint import Checkpoints as Checkpoints
from jaxdistill.train.checkpoint import Elapsed as Elapsed
from jaxdistill.train.checkpoint import Restored as Restored
from jaxdistill.train.checkpoint import saved_fingerprint as saved_fingerprint
from jaxdistill.train.config import TrainConfig as TrainConfig
from jaxdistill.train.fingerprint import Fingerprint as Fingerprint
from jaxdistill.train.loop import Hook as Hook
from jaxdistill.train.loop import NonFiniteError as NonFiniteError
from jaxdistill.train.loop import train_loop as train_loop
from jaxdistill.train.micro_batches import check_batch_size as check_batch_size
from jaxdistill.train.optimizer import AdamW as AdamW
from jaxdistill.train.state import TrainState as TrainState
from jaxdistill.train.state import abstract_state as abstract_state
from jaxdistill.train.state import init_state as init_state
from jaxdistill.train.state import state_shardings as state_shardings
from jaxdistill.train.step import Frozen as Frozen
from jaxdistill.train.step import SignalFunction as SignalFunction
from jaxdistill.train.step import StepFunction as StepFunction
from jaxdistill.train.step import jit_step as jit_step
from jaxdistill.train.step import make_step as make_step
