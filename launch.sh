#!/bin/bash
''':'
# Trains MealRec: ./launch.sh [OPTIONS], or ./launch.sh --help
#
# One file, valid as shell and as Python. As shell it finds (or makes) the environment and runs itself as Python there;
# `deepspeed launch.sh` runs the Python half at once, `deepspeed --no_python ./launch.sh` the shell half in each rank.
# A process that a launcher gave a LOCAL_RANK is a rank; any other is the operator, which starts the ranks.
here=$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd) || exit 1
python=$("$here/environment.sh" ${LOCAL_RANK:+rank}) || exit $?
exec "$python" -u "$here/launch.sh" "$@"
: <<'#END'
'''
if __name__ == "__main__":
    from trainer.__main__ import main

    main()
#END
