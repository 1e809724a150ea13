"""Interface to lm-evaluation-harness: its tasks for our models, our models for its functions.

Installed by `pip install jaxdistill[lm-eval]`. Importing this package registers the model type
`jaxdistill` with the harness:

    import jaxdistill.harness, lm_eval
    lm_eval.simple_evaluate(
        model="jaxdistill", model_args="path=runs/quickstart", tasks=["arc_easy"]
    )
"""

from jaxdistill.errors import UserError

try:
    import lm_eval as lm_eval
except ModuleNotFoundError as error:
    if error.name != "lm_eval":
        raise
    raise UserError(
        "lm-evaluation-harness is not installed: `pip install 'jaxdistill[lm-eval]'`."
    ) from None

from jaxdistill.harness.lm_eval_model import HarnessModel as HarnessModel
from jaxdistill.harness.lm_eval_tasks import evaluate as evaluate
