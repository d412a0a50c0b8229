#!/bin/sh
# One job a line, each by itself; under a launcher, put torchrun or srun before it.

postmortem replay --order jobs/R0.json --json --trust
postmortem replay --order jobs/R0-again.json --json --trust
postmortem replay --order jobs/R2-skip-109-110.json --json --trust
postmortem replay --order jobs/R2-skip-108-109.json --json --trust
postmortem replay --order jobs/R2-noise-1.json --json --trust
postmortem replay --order jobs/R3-replace-110-111.json --json --trust
postmortem replay --order jobs/R3-move-110-111-135.json --json --trust
postmortem replay --order jobs/R1-moments-restored.json --json --trust
postmortem replay --order jobs/R1-mask-110-111.json --json --trust
postmortem replay --order jobs/R1-unmask-110-111.json --json --trust
postmortem replay --order jobs/R1-drop-rows-110-111.json --json --trust
