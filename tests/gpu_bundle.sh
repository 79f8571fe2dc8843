#!/usr/bin/env bash
# For a machine that has a CUDA card and its driver, but where nothing can be installed or built: makes a folder (about 15 MB) of the
# programs built here, the shared libraries they need, Open MPI, and run.sh, which does there what tests/gpu.sh does after building. The
# folder and a checkout of this tree are all that has to be carried. C and C++ runtime libraries, NCCL, cuBLASLt and the driver are that
# machine's; its C library may be newer than this one's, not older.
#
#   tests/gpu_bundle.sh BUILD FOLDER           here: BUILD is a finished build with RLF_CUDA and BUILD_TESTING
#   FOLDER/run.sh TREE [ops|job|bench|all]...  there, as a user who may write to /: Open MPI looks for its parts where they were here
set -euo pipefail
[ $# -eq 2 ] || { echo "gpu_bundle.sh: expected BUILD FOLDER" >&2; exit 2; }
build=$(realpath "$1") tests="simple norm linear tensor attention attention_tiles head exact transformer"
mkdir -p "$2"
folder=$(realpath "$2") stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
programs="trainer/rlf trainer/rlf-train jobs/quickstart-data tests/mpi/test_comm $(printf 'tests/test_%s ' $tests)"

for program in $programs; do
    mkdir -p "$stage/build/$(dirname "$program")"
    strip -o "$stage/build/$program" "$build/$program"
done
needed() { ldd "$@" 2>/dev/null | awk '$3 ~ /^\// {print $3}' | sort -u |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|libstdc\+\+|libgcc_s|libnccl)\.so|ld-linux' | sed 's,^/,,'; }
plugins=$(ompi_info --path pkglibdir --parsable | sed 's/^[^/]*//')
mpi=$(cd / && ls -d "${plugins#/}" usr/share/openmpi usr/share/pmix* etc/openmpi* etc/pmix* usr/lib/*/pmix* usr/lib/*/libmca_common* \
    usr/bin/orted usr/bin/orterun usr/bin/sqlite3 2>/dev/null || true)
tar -C / -chf "$stage/libraries.tar" --transform 's,^lib/,usr/lib/,' $(needed $(printf "$build/%s " $programs) /usr/bin/orted "$plugins"/*.so)
tar -C / -cf "$stage/mpi.tar" --exclude='*.a' --exclude='*.la' $mpi
tar -C "$stage" -cJf "$folder/bundle.tar.xz" build libraries.tar mpi.tar

cat >"$folder/run.sh" <<'RUN'
#!/usr/bin/env bash
# Made by tests/gpu_bundle.sh, which says what for.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd) tree=$(realpath "$1") root=${RLF_BUNDLE_ROOT:-/tmp/rlf}
mkdir -p "$root" && tar -C "$root" -xJf "$here/bundle.tar.xz" || exit
for part in libraries mpi; do tar -C / --skip-old-files --keep-directory-symlink -xf "$root/$part.tar"; done
[ -e /usr/bin/mpirun ] || ln -s orterun /usr/bin/mpirun
command -v ssh >/dev/null || export OMPI_MCA_plm_rsh_agent=/bin/false
ldconfig
for library in libnccl.so.2 libcublasLt.so.13; do # pip has each in a folder of its own; --isa free opens the second by this name
    found=$(find / -path /proc -prune -o -name $library -print -quit 2>/dev/null)
    [ -z "$found" ] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$(dirname "$found")
done
missing=$(ldd "$root/build/trainer/rlf" 2>&1 | grep 'not found')
[ -z "$missing" ] || { echo "run.sh: the programs cannot start on this machine:" $missing >&2; exit 1; }
cd "$tree" && RLF_GPU_BUILT=1 tests/gpu.sh "$root/build" "${@:2}"
RUN
chmod +x "$folder/run.sh"
du -sh "$folder"
