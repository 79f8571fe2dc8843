#!/usr/bin/env bash
# Who may include whom (ARCHITECTURE.md): common < kernels < rollout, toolsvc, trainer; these three do not include each other, but for trainer/main.c,
# which hands a rank its role, and the commands in trainer/cli/. Inside common, base is below the rest. Prints every include that breaks this.
set -euo pipefail
cd "$(dirname "$0")/.."

may_include() { # file -> folders it may include from
    case $1 in
        common/base/*) echo common/base ;;
        common/*) echo common ;;
        kernels/transformer/* | kernels/comm/*) echo common kernels ;;
        kernels/*) echo common/base kernels ;;
        rollout/*) echo common kernels rollout ;;
        toolsvc/*) echo common toolsvc ;;
        trainer/main.c | trainer/cli/*) echo common kernels rollout toolsvc trainer ;;
        trainer/*) echo common kernels trainer ;;
    esac
}

status=0
while IFS=: read -r file line text; do
    header=$(sed 's/[^"]*"\([^"]*\)".*/\1/' <<<"$text") allowed=no
    for folder in $(may_include "$file"); do [[ $header == "$folder"/* ]] && allowed=yes; done
    [ $allowed = yes ] || { echo "$file:$line: may not include $header; only from: $(may_include "$file")"; status=1; }
done < <(grep -rnE --include='*.[ch]' --include='*.cu' '^ *# *include *"' common kernels rollout toolsvc trainer)
exit $status
