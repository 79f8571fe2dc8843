/* What code in the sandbox may try, one row each: to read, write, reach, become or exhaust what is not its own. Each attempt proves that
 * it was made ("refused" or "contained" in its text, or the end it must meet), leaves a second interpreter working, and nothing running.
 *
 * All of it twice: with control groups, where this machine gives us some, and without.
 *
 * Bait outside: a secret in the environment and in a file of the temporary folder, a listener on the loopback device, one on an abstract
 * socket, and this very process. */
#include "tests/test.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "tests/unit/toolsvc/python_rig.h"

#define SECRET "correct-horse-battery"
enum { POOL = 2, PATIENT_MS = 20000, SHORT_MS = 400 };

typedef struct attempt {
    const char *name;
    char end;             /* how it must end: d done, r raised, l lost, '*' either way */
    int wall_ms;
    const char *expected; /* in the text; "": anything */
    const char *code;
} attempt;

/* A call that must fail, as a function or as a bare system call. */
static const char prelude[] =
    "import os, sys, ctypes, socket, signal, stat, time, fcntl, threading, subprocess, resource, mmap\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "def refused(f, *a):\n"
    "    try: r = f(*a)\n"
    "    except (OSError, ValueError): print('refused')\n"
    "    else: print('ESCAPED', r)\n"
    "def call(name, *a):\n"
    "    a = [ctypes.c_long(x) if isinstance(x, int) else x for x in a]\n"
    "    r = libc.syscall(ctypes.c_long(NR[name]), *a)\n"
    "    print('refused' if r == -1 else 'ESCAPED %d' % r)\n";

#define NR(name) {#name, SYS_##name}
static const struct { const char *name; long number; } numbers[] = {
    NR(ptrace), NR(process_vm_readv), NR(process_vm_writev), NR(kcmp), NR(pidfd_open), NR(socketpair), NR(connect), NR(bind), NR(unshare),
    NR(setns), NR(clone), NR(clone3), NR(mount), NR(umount2), NR(pivot_root), NR(chroot), NR(bpf), NR(perf_event_open), NR(userfaultfd),
    NR(add_key), NR(request_key), NR(keyctl), NR(personality), NR(memfd_create), NR(execveat), NR(init_module), NR(finit_module),
    NR(kexec_load), NR(reboot), NR(swapon), NR(settimeofday), NR(clock_settime), NR(sethostname), NR(syslog), NR(acct), NR(quotactl),
    NR(shmget), NR(msgget), NR(semget), NR(mq_open), NR(seccomp), NR(prctl), NR(capset), NR(mlock), NR(mlockall), NR(inotify_init1),
    NR(fanotify_init), NR(timer_create), NR(open_by_handle_at), NR(name_to_handle_at), NR(setdomainname), NR(vhangup), NR(sync),
    NR(lookup_dcookie), NR(move_pages), NR(mbind), NR(setxattr), NR(process_madvise), NR(open_tree), NR(fsopen), NR(move_mount),
    NR(mount_setattr), NR(io_uring_setup), NR(pidfd_getfd), NR(landlock_create_ruleset),
};

static const attempt attempts[] = {
    /* files of others */
    {"read /etc/shadow", 'd', 0, "refused", "refused(open, '/etc/shadow')"},
    {"read the users of the machine", 'd', 0, "contained", "print('contained' if open('/etc/passwd').read().split(':')[0] == 'sandbox' else 'ESCAPED')"},
    {"see the home folders", 'd', 0, "contained", "print('ESCAPED' if os.path.exists('/root') or os.path.exists('/home') else 'contained')"},
    {"see the rest of the root", 'd', 0, "contained",
     "rest = set(os.listdir('/')) - set('tmp proc dev etc lib64 lib32 libx32 lib sbin bin usr'.split())\nprint('ESCAPED %s' % rest if rest else 'contained')"},
    {"read a file of the temporary folder", 'd', 0, "refused", "refused(open, BAIT)"},
    {"read it by way of ..", 'd', 0, "refused", "refused(open, '../' * 40 + BAIT)"},
    {"read it by a symbolic link", 'd', 0, "refused", "os.symlink('../../../..' + BAIT, 'l')\nrefused(open, 'l')"},
    {"read it through /proc/1/root", 'd', 0, "refused", "refused(open, '/proc/1/root' + BAIT)"},
    {"read it through /proc/1/cwd", 'd', 0, "refused", "refused(open, '/proc/1/cwd/../..' + BAIT)"},
    {"read it by .. from a folder's descriptor", 'd', 0, "refused",
     "d = os.open('/tmp', os.O_DIRECTORY)\nrefused(lambda: os.open('../..' + BAIT, os.O_RDONLY, dir_fd=d))"},
    {"open by file handle", 'd', 0, "refused", "call('open_by_handle_at', 3, 0, 0)"},
    {"make a file handle", 'd', 0, "refused", "call('name_to_handle_at', -100, b'/usr', 0, 0, 0)"},
    {"find a descriptor left open", 'd', 0, "contained",
     "links = [os.readlink('/proc/self/fd/' + f) for f in os.listdir('/proc/self/fd') if os.path.lexists('/proc/self/fd/' + f)]\n"
     "bad = [l for l in links if l.startswith('/') and l not in ('/dev/null', '/dev/urandom') and not l.startswith('/proc/')]\n"
     "print('ESCAPED %s' % bad if bad else 'contained')"},
    {"hard link a program into the scratch", 'd', 0, "refused", "refused(os.link, '/usr/bin/env', '/tmp/x')"},
    {"write to /usr", 'd', 0, "refused", "refused(open, '/usr/x', 'w')"},
    {"add a user", 'd', 0, "refused", "refused(open, '/etc/passwd', 'a')"},
    {"write to the root", 'd', 0, "refused", "refused(os.mkdir, '/x')"},
    {"write to /dev", 'd', 0, "refused", "refused(open, '/dev/x', 'w')"},
    {"change the mode of a program", 'd', 0, "refused", "refused(os.chmod, '/usr/bin/env', 0o777)"},
    {"plant a module for others", 'd', 0, "refused", "refused(open, os.path.dirname(os.__file__) + '/evil.py', 'w')"},
    {"start a program from the scratch", 'd', 0, "refused",
     "import shutil\nshutil.copy('/usr/bin/env', 'e')\nos.chmod('e', 0o755)\nrefused(subprocess.run, ['./e'])"},
    {"extended attributes", 'd', 0, "refused", "open('f', 'w')\ncall('setxattr', b'f', b'user.x', b'1', 1, 0)"},
    /* devices and the kernel's files */
    {"read memory by /dev/mem", 'd', 0, "refused", "refused(open, '/dev/mem')"},
    {"read /proc/kcore", 'd', 0, "refused", "refused(open, '/proc/kcore')"},
    {"press sysrq", 'd', 0, "refused", "refused(open, '/proc/sysrq-trigger', 'w')"},
    {"set the core pattern", 'd', 0, "refused", "refused(open, '/proc/sys/kernel/core_pattern', 'w')"},
    {"look into /sys", 'd', 0, "refused", "refused(os.listdir, '/sys')"},
    {"a control group's release agent", 'd', 0, "refused", "refused(open, '/sys/fs/cgroup/release_agent', 'w')"},
    {"a container engine's socket", 'd', 0, "refused", "refused(os.stat, '/var/run/docker.sock')"},
    {"make a disk", 'd', 0, "refused", "refused(os.mknod, '/tmp/d', stat.S_IFBLK | 0o600, os.makedev(8, 0))"},
    {"make a memory device", 'd', 0, "refused", "refused(os.mknod, '/tmp/d', stat.S_IFCHR | 0o600, os.makedev(1, 1))"},
    {"type into a terminal", 'd', 0, "refused", "refused(fcntl.ioctl, 0, 0x5412, b'x')"},
    {"open the terminal", 'd', 0, "refused", "refused(open, '/dev/tty', 'w')"},
    /* the processes outside */
    {"secrets of the environment", 'd', 0, "contained",
     "print('ESCAPED' if 'RLF_ESCAPE' in os.environ or 'RLF_ESCAPE' in open('/proc/1/environ').read() else 'contained')"},
    {"the environment of the parent", 'd', 0, "refused", "refused(open, '/proc/%d/environ' % PARENT)"},
    {"the memory of the parent", 'd', 0, "refused", "refused(open, '/proc/%d/mem' % PARENT)"},
    {"see processes outside", 'd', 0, "contained",
     "print('contained' if [p for p in os.listdir('/proc') if p.isdigit()] == ['1'] and os.getppid() == 0 else 'ESCAPED')"},
    {"ptrace the parent", 'd', 0, "refused", "call('ptrace', 16, PARENT, 0, 0)"},
    {"ptrace a child", 'd', 0, "refused", "call('ptrace', 0, 0, 0, 0)"},
    {"read the parent's memory", 'd', 0, "refused", "call('process_vm_readv', PARENT, 0, 0, 0, 0, 0)"},
    {"write the parent's memory", 'd', 0, "refused", "call('process_vm_writev', PARENT, 0, 0, 0, 0, 0)"},
    {"steal a descriptor", 'd', 0, "refused", "call('pidfd_getfd', 3, 0, 0)"},
    {"compare with the parent", 'd', 0, "refused", "call('kcmp', 1, PARENT, 0, 0, 0)"},
    {"a pidfd of the parent", 'd', 0, "refused", "call('pidfd_open', PARENT, 0)"},
    {"move another's pages", 'd', 0, "refused", "call('move_pages', PARENT, 0, 0, 0, 0, 0)"},
    {"signal the parent", 'd', 0, "refused", "refused(os.kill, PARENT, signal.SIGKILL)"},
    {"signal everybody", 'd', 0, "contained", "try: os.kill(-1, signal.SIGKILL)\nexcept OSError: pass\nprint('contained')"},
    {"signal the process group", 'd', 0, "contained", "os.killpg(0, signal.SIGKILL)\nprint('contained')"},
    {"stop itself", 'd', 0, "contained", "os.kill(os.getpid(), signal.SIGSTOP)\nprint('contained')"},
    /* the network */
    {"a loopback connection", 'd', 0, "refused", "refused(socket.create_connection, ('127.0.0.1', PORT), 2)"},
    {"a loopback connection over IPv6", 'd', 0, "refused", "refused(socket.create_connection, ('::1', PORT), 2)"},
    {"a datagram", 'd', 0, "refused", "refused(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)"},
    {"a raw socket", 'd', 0, "refused", "refused(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)"},
    {"a packet socket", 'd', 0, "refused", "refused(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)"},
    {"a netlink socket", 'd', 0, "refused", "refused(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW)"},
    {"a host's hypervisor socket", 'd', 0, "refused", "refused(socket.socket, 40, socket.SOCK_STREAM)"},
    {"the kernel's cipher sockets", 'd', 0, "refused", "refused(socket.socket, 38, socket.SOCK_SEQPACKET)"},
    {"an abstract socket outside", 'd', 0, "refused", "refused(lambda: socket.socket(socket.AF_UNIX).connect('\\0' + ABSTRACT))"},
    {"connect a socket of a pair elsewhere", 'd', 0, "refused", "a, b = socket.socketpair()\ncall('connect', a.fileno(), b'\\1\\0\\0' + ABSTRACT.encode(), 3 + len(ABSTRACT))"},
    {"a pair of internet sockets", 'd', 0, "refused", "call('socketpair', 2, 1, 0, ctypes.create_string_buffer(8))"},
    {"a pair whose family has bits the kernel ignores", 'd', 0, "refused", "call('socketpair', 1 | 1 << 32, 1, 0, ctypes.create_string_buffer(8))"},
    {"resolve a name", 'd', 0, "refused", "refused(socket.getaddrinfo, 'example.com', 80)"},
    /* namespaces and mounts */
    {"a new user namespace", 'd', 0, "refused", "call('unshare', 0x10000000)"},
    {"a new network namespace", 'd', 0, "refused", "call('unshare', 0x40000000)"},
    {"clone into a user namespace", 'd', 0, "refused", "call('clone', 0x10000000 | 17, 0, 0, 0, 0)"},
    {"clone into a mount namespace", 'd', 0, "refused", "call('clone', 0x20000 | 17, 0, 0, 0, 0)"},
    {"clone3", 'd', 0, "refused", "call('clone3', ctypes.create_string_buffer(88), 88)"},
    {"enter a namespace", 'd', 0, "refused", "call('setns', os.open('/proc/1/ns/net', os.O_RDONLY), 0)"},
    {"mount", 'd', 0, "refused", "call('mount', b'x', b'/tmp', b'tmpfs', 0, 0)"},
    {"mount writable again", 'd', 0, "refused", "call('mount', b'x', b'/usr', 0, 32 | 4096, 0)"},
    {"unmount", 'd', 0, "refused", "call('umount2', b'/usr', 2)"},
    {"change the root", 'd', 0, "refused", "call('pivot_root', b'.', b'.')"},
    {"chroot", 'd', 0, "refused", "refused(os.chroot, '/tmp')"},
    {"the new mount calls", 'd', 0, "refused", "call('open_tree', -100, b'/', 1)\ncall('fsopen', b'tmpfs', 0)\ncall('mount_setattr', -100, b'/usr', 0, b'\\0' * 32, 32)"},
    /* becoming somebody */
    {"become root", 'd', 0, "refused", "refused(os.setuid, 0)\nrefused(os.setgid, 0)\nrefused(os.setgroups, [0])\nrefused(os.setresuid, 0, 0, 0)"},
    {"take capabilities", 'd', 0, "refused", "call('capset', b'\\x22\\x05\\x08\\x20\\0\\0\\0\\0', b'\\xff' * 24)"},
    {"a set-user-id program", 'd', 0, "contained",
     "s = open('/proc/self/status').read()\nprint('contained' if 'NoNewPrivs:\\t1' in s and 'CapBnd:\\t0000000000000000' in s and 'CapEff:\\t0000000000000000' in s else 'ESCAPED')"},
    {"a new user map", 'd', 0, "refused", "refused(lambda: open('/proc/self/uid_map', 'w').write('0 0 1'))"},
    {"raise a limit", 'd', 0, "refused",
     "refused(resource.setrlimit, resource.RLIMIT_NPROC, (9999, 9999))\nrefused(resource.setrlimit, resource.RLIMIT_AS, (-1, -1))\nrefused(resource.prlimit, 1, resource.RLIMIT_CPU, (-1, -1))"},
    {"real-time priority", 'd', 0, "refused", "refused(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(50))"},
    {"a better priority", 'd', 0, "refused", "refused(os.setpriority, os.PRIO_PROCESS, 0, -20)"},
    /* corners of the kernel */
    {"bpf", 'd', 0, "refused", "call('bpf', 0, 0, 0)"},
    {"performance counters", 'd', 0, "refused", "call('perf_event_open', b'\\0' * 128, 0, -1, -1, 0)"},
    {"io_uring", 'd', 0, "refused", "call('io_uring_setup', 8, ctypes.create_string_buffer(120))"},
    {"userfaultfd", 'd', 0, "refused", "call('userfaultfd', 1)"},
    {"keyrings", 'd', 0, "refused", "call('keyctl', 0, -3, 1)\ncall('add_key', b'user', b'a', b'b', 1, -3)\ncall('request_key', b'user', b'a', 0, 0)"},
    {"personality", 'd', 0, "refused", "call('personality', 0)"},
    {"a file in memory, to run", 'd', 0, "refused", "call('memfd_create', b'x', 0)\ncall('execveat', 1, b'', 0, 0, 0x1000)"},
    {"load a module", 'd', 0, "refused", "call('init_module', b'', 0, b'')\ncall('finit_module', 3, b'', 0)\ncall('kexec_load', 0, 0, 0, 0)"},
    {"reboot", 'd', 0, "refused", "call('reboot', 0xfee1dead, 672274793, 0, 0)"},
    {"swap, accounting, quota", 'd', 0, "refused", "call('swapon', b'/tmp/x', 0)\ncall('acct', 0)\ncall('quotactl', 0, 0, 0, 0)"},
    {"set the clock", 'd', 0, "refused", "refused(time.clock_settime, time.CLOCK_REALTIME, 0.0)\ncall('settimeofday', 0, 0)"},
    {"set the host name", 'd', 0, "refused", "refused(socket.sethostname, 'x')\ncall('setdomainname', b'x', 1)"},
    {"the kernel's log", 'd', 0, "refused", "call('syslog', 3, 0, 0)"},
    {"System V shared memory and queues", 'd', 0, "refused", "call('shmget', 0, 1 << 30, 0o1600)\ncall('msgget', 0, 0o1600)\ncall('semget', 0, 9, 0o1600)"},
    {"POSIX queues", 'd', 0, "refused", "call('mq_open', b'x', 0o102, 0o600, 0)"},
    {"another filter", 'd', 0, "refused", "call('seccomp', 1, 0, 0)\ncall('prctl', 22, 2, 0)\ncall('prctl', 38, 0, 0, 0, 0)"},
    {"file system watches", 'd', 0, "refused", "call('inotify_init1', 0)\ncall('fanotify_init', 0, 0)"},
    {"flush every disk", 'd', 0, "refused", "call('sync')"},
    {"lock memory", 'd', 0, "refused", "call('mlockall', 3)\ncall('mlock', 0, 4096)"},
#ifdef __x86_64__
    {"a 32-bit system call", 'l', 0, "signal 31",
     "m = mmap.mmap(-1, 4096, prot=7)\nm.write(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3')\nctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()"},
    {"an x32 system call", 'l', 0, "signal 31", "libc.syscall(ctypes.c_long(0x40000000 + 39))"},
#endif
    /* exhausting */
    {"a fork bomb", '*', 1500, "", "while True:\n    try: os.fork()\n    except OSError: pass"},
    {"a shell's fork bomb", '*', 1500, "", "subprocess.run(['/bin/sh', '-c', 'b() { b | b & }; b; sleep 9'])"},
    {"as many processes as it gets", 'd', 0, "contained",
     "n = 0\ntry:\n    while n < 1000:\n        if os.fork() == 0: time.sleep(99)\n        n += 1\nexcept OSError: print('contained' if n < 16 else 'ESCAPED')"},
    {"as many threads as it gets", 'd', 0, "contained",
     "n = 0\ntry:\n    while n < 1000:\n        threading.Thread(target=time.sleep, args=(99,), daemon=True).start()\n        n += 1\nexcept RuntimeError: print('contained' if n < 16 else 'ESCAPED')"},
    {"a memory bomb", 'd', 0, "contained", "l = []\ntry:\n    while len(l) < 999: l.append(bytearray(1 << 24))\n    print('ESCAPED')\nexcept MemoryError:\n    n = len(l); del l\n    print('contained' if n < 16 else 'ESCAPED')"},
    {"a memory bomb in small pieces", '*', 0, "", "l = []\nwhile True: l.append([l])"},
    {"a memory bomb shared out among processes", 'l', 0, "[stopped: its processes took more than 256 MiB together",
     "for i in range(8):\n    if os.fork() == 0:\n        b = bytearray(100 << 20)\n        time.sleep(99)\ntime.sleep(99)"},
    {"the same with threads, and left to daemons", '*', 0, "",
     "def f():\n    for i in range(2):\n        if os.fork() == 0:\n            os.setsid()\n            b = bytearray(100 << 20)\n            time.sleep(99)\nfor i in range(2): threading.Thread(target=f).start()\nprint('contained')"},
    {"one huge map", 'd', 0, "refused", "refused(mmap.mmap, -1, 1 << 40)"},
    {"fill the disk", 'd', 0, "contained", "n = 0\ntry:\n    for i in range(99):\n        with open('f%d' % i, 'wb') as f: f.write(bytes(1 << 20))\n        n += 1\nexcept OSError: print('contained' if n <= 8 else 'ESCAPED')"},
    {"one large file", 'd', 0, "refused", "refused(lambda: open('f', 'wb').write(bytes(20 << 20)))"},
    {"a sparse file", 'd', 0, "refused", "refused(lambda: open('f', 'wb').truncate(1 << 40))"},
    {"reserve a large file", 'd', 0, "refused", "refused(lambda: os.posix_fallocate(os.open('f', os.O_CREAT | os.O_WRONLY), 0, 1 << 30))"},
    {"as many files as it gets", 'd', 0, "contained", "try:\n    for i in range(99999): os.mkdir('d%d' % i)\n    print('ESCAPED')\nexcept OSError: print('contained')"},
    {"as many descriptors as it gets", 'd', 0, "contained", "n = 0\ntry:\n    while n < 9999: os.pipe(); n += 1\nexcept OSError: print('contained' if n < 256 else 'ESCAPED')"},
    {"a huge pipe", 'd', 0, "refused", "refused(fcntl.fcntl, os.pipe()[1], 1031, 1 << 30)"},
    {"as many timers as it gets", 'd', 0, "contained",
     "n = 0\nwhile n < 9999 and libc.syscall(ctypes.c_long(NR['timer_create']), 1, 0, ctypes.create_string_buffer(8)) == 0: n += 1\nprint('contained' if n < 999 else 'ESCAPED')"},
    {"as many queued signals as it gets", 'd', 0, "contained",
     "signal.pthread_sigmask(signal.SIG_BLOCK, [40])\nn = 0\nwhile n < 9999 and libc.sigqueue(1, 40, None) == 0: n += 1\nprint('contained' if n < 999 else 'ESCAPED')"},
    {"a core dump", 'l', 0, "ended by signal", "os.abort()"},
    {"endless output", 'l', 0, "[stopped: it never ceased to print", "while True: os.write(1, b'y' * 65536)"},
    {"endless output of a child", 'l', 0, "[stopped: it never ceased to print", "subprocess.run(['/bin/sh', '-c', 'while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; yes; done'])"},
    {"more text than the limit", 'd', 0, "[cut: ", "'y' * 100000"},
    {"an endless loop", 'l', SHORT_MS, "[stopped: not done", "while True: pass"},
    {"sleep", 'l', SHORT_MS, "[stopped: not done", "time.sleep(999)"},
    {"ignore every signal", 'l', SHORT_MS, "[stopped: not done",
     "for s in range(1, 64):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\nwhile True: pass"},
    {"catch every exception", 'l', SHORT_MS, "[stopped: not done", "while True:\n    try:\n        while True: pass\n    except BaseException: pass"},
    {"a huge number", 'l', SHORT_MS, "[stopped: not done", "(7 ** 7 ** 9) % 10"},
    {"a regular expression that explodes", 'l', SHORT_MS, "[stopped: not done", "import re\nre.match('(a+)+$', 'a' * 60 + 'b')"},
    {"wait for input", 'd', 0, "EOF", "try: input()\nexcept EOFError: print('EOF')"},
    {"processor time", 'l', 0, "out of processor time", "while True: pass"},
    {"deep recursion", 'r', 0, "RecursionError", "def f(): f()\nf()"},
    {"deep recursion past the check", 'l', 0, "ended by signal", "sys.setrecursionlimit(10 ** 9)\nf = lambda: f()\ng = eval('lambda: [g() for _ in [0]]')\nmin([0], key=lambda x: None)\nclass R:\n    def __repr__(self): return repr(self)\nrepr(R())"},
    {"deep nesting of source", 'r', 0, "", "eval('(' * 9999 + ')' * 9999)"},
    {"a bad address", 'l', 0, "ended by signal 11", "ctypes.string_at(0)"},
    /* staying behind */
    {"a daemon", 'd', 0, "contained", "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n        signal.signal(signal.SIGHUP, signal.SIG_IGN)\n        time.sleep(999)\n    os._exit(0)\nprint('contained')"},
    {"a daemon that works", 'd', 0, "contained", "if os.fork() == 0:\n    os.setsid()\n    while True: pass\nprint('contained')"},
    {"a program in the background", 'd', 0, "contained", "os.system('(trap \"\" TERM HUP; sleep 999) &')\nprint('contained')"},
    {"a stopped child", 'd', 0, "contained", "p = os.fork()\nif p == 0: time.sleep(999)\nos.kill(p, signal.SIGSTOP)\nprint('contained')"},
    {"a thread that stays", 'd', 0, "contained", "threading.Thread(target=lambda: time.sleep(999)).start()\nprint('contained')"},
    /* the driver */
    {"close every descriptor", 'l', 0, "[", "os.closerange(0, 999)"},
    {"close standard output", 'd', 0, "", "os.close(1); os.close(2)"},
    {"write to every descriptor", 'l', 0, "[stopped: it meddled", "for f in range(3, 64):\n    try: os.write(f, b'x' * 99)\n    except OSError: pass\ntime.sleep(99)"},
    {"forge an answer with a wrong token", 'l', 0, "[stopped: it meddled", "for f in range(3, 64):\n    try: os.write(f, b'x' * 9)\n    except OSError: pass\ntime.sleep(99)"},
    {"forge an answer with the right token", 'd', 0, "forged", "f = sys._getframe()\nwhile 'token' not in f.f_locals: f = f.f_back\nprint('forged', flush=True)\nos.write(f.f_locals['control'] if 'control' in f.f_locals else f.f_back.f_locals['control'], f.f_locals['token'] + b'\\0')\ntime.sleep(99)"},
    {"come back twice", 'd', 0, "contained", "os.fork()\nprint('contained')"},
    {"take print and the streams away", 'd', 0, "", "import builtins\nbuiltins.print = builtins.repr = None\nsys.stdout = sys.stderr = None"},
    {"become another program", 'l', 0, "[stopped: it meddled", "os.execv('/bin/sh', ['sh', '-c', 'while :; do :; done'])"},
    {"preload a library", 'l', 0, "exited with status 0", "os.execve('/usr/bin/env', ['env'], {'LD_PRELOAD': '/tmp/x.so'})"},
    {"exit", 'l', 0, "exited with status 0", "os._exit(0)"},
};

/* What the group alone notices: each process keeps its own limit. */
static const attempt attempts_in_groups[] = {
    {"processor time shared out among processes", 'l', 0, "[stopped: its processes took more than 2 s of processor time",
     "for i in range(3):\n    if os.fork() == 0:\n        while time.process_time() < 1.5: pass\n        os._exit(0)\nfor i in range(3): os.wait()\nprint('ESCAPED')"},
};

typedef struct fixture {
    rig r;
    toolsvc_python_session *other; /* lives through all attempts: its variable counts them */
    char header[16384]; /* what an attempt needs to know */
    char bait[64], abstract[64];
    int listener, abstract_listener;
    size_t made;
    char group[512]; /* of all interpreters; "": none */
} fixture;

/* Mounts of a sandbox that we see too. */
static size_t leaked_mounts(void) {
    FILE *f = fopen("/proc/self/mountinfo", "r");
    char line[4096];
    size_t n = 0;
    while (f && fgets(line, sizeof line, f)) n += strstr(line, " tmpfs scratch ") || strstr(line, " tmpfs root ");
    if (f) fclose(f);
    return n;
}

static int lay_bait(fixture *f) {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    socklen_t n = sizeof in;
    snprintf(f->bait, sizeof f->bait, "/tmp/rlf-escape-%d", (int)getpid());
    snprintf(f->abstract, sizeof f->abstract, "rlf-escape-%d", (int)getpid());
    snprintf(un.sun_path + 1, sizeof un.sun_path - 1, "%s", f->abstract);
    FILE *file = fopen(f->bait, "w");
    if (!file) return -1;
    fputs(SECRET, file);
    fclose(file);
    setenv("RLF_ESCAPE", SECRET, 1);
    f->listener = socket(AF_INET, SOCK_STREAM, 0);
    f->abstract_listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(f->listener, (struct sockaddr *)&in, sizeof in) || listen(f->listener, 8)) return -1;
    if (bind(f->abstract_listener, (struct sockaddr *)&un, (socklen_t)(sizeof un.sun_family + 1 + strlen(f->abstract)))) return -1;
    if (listen(f->abstract_listener, 8) || getsockname(f->listener, (struct sockaddr *)&in, &n)) return -1;
    return ntohs(in.sin_port);
}

/* False: groups were asked for, and there are none. */
static bool note_group(fixture *f, bool groups) {
    const char *words = toolsvc_python_groups(f->r.python), *path = groups ? strchr(words, '/') : NULL;
    if (groups && strncmp(words, "control groups", 14) != 0) {
        fprintf(stderr, "skipped: %s\n", words);
        return false;
    }
    if (path) snprintf(f->group, sizeof f->group, "%.*s", (int)strcspn(path, " "), path);
    return true;
}

static int set_up(void **state, bool groups) {
    static fixture f;
    answer first;
    const char *missing = rig_missing(true);
    toolsvc_python_options options = rig_options(true);
    f = (fixture){0};
    options.limits.groups = groups;
    if (missing) {
        fprintf(stderr, "skipped: %s\n", missing);
        return 0;
    }
    int port = lay_bait(&f);
    if (port < 0) return -1;
    size_t n = (size_t)snprintf(f.header, sizeof f.header, "BAIT, ABSTRACT, PORT, PARENT = '%s', '%s', %d, %d\nNR = {", f.bait, f.abstract, port,
                                (int)getpid());
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        n += (size_t)snprintf(f.header + n, sizeof f.header - n, "'%s': %ld, ", numbers[i].name, numbers[i].number);
    snprintf(f.header + n, sizeof f.header - n, "}\n%s", prelude);
    options.limits.cpu_s = 2;
    rig_start(&f.r, &options);
    if (!note_group(&f, groups)) return rig_stop(&f.r);
    f.other = toolsvc_python_open(f.r.python, 2);
    rig_run(&f.r, f.other, "x = 0", PATIENT_MS, &first);
    *state = &f;
    return 0;
}

static int setup(void **state) { return set_up(state, false); }
static int setup_groups(void **state) { return set_up(state, true); }

static int teardown(void **state) {
    fixture *f = *state;
    if (!f) return 0;
    unlink(f->bait);
    close(f->listener);
    close(f->abstract_listener);
    int left = rig_stop(&f->r);
    if (f->group[0] && access(f->group, F_OK) == 0) left = -1;
    return left ? left : (int)rig_descendants();
}

static bool ended_as(char end, toolsvc_python_outcome outcome) {
    return end == '*' ? outcome != TOOLSVC_PYTHON_BROKEN : end == (outcome == TOOLSVC_PYTHON_DONE ? 'd' : outcome == TOOLSVC_PYTHON_RAISED ? 'r' : 'l');
}

/* NULL: contained. */
static const char *judge(const attempt *t, const answer *a) {
    if (!ended_as(t->end, a->outcome)) return "it ended otherwise";
    if (strstr(a->text, "ESCAPED") || strstr(a->text, SECRET)) return "it got out";
    return strstr(a->text, t->expected) ? NULL : "it was not refused as expected";
}

static const char *run_attempt(fixture *f, const attempt *t) {
    answer a, b;
    char counted[32];
    toolsvc_python_session *s = toolsvc_python_open(f->r.python, 1);
    rig_run(&f->r, s, f->header, PATIENT_MS, &a);
    if (a.outcome != TOOLSVC_PYTHON_DONE) return "the preparation failed";
    rig_run(&f->r, s, t->code, t->wall_ms ? t->wall_ms : PATIENT_MS, &a);
    const char *fault = judge(t, &a);
    if (fault) fprintf(stderr, "%s: ended %d: %.2000s\n", t->name, (int)a.outcome, a.text);
    rig_run(&f->r, f->other, "x += 1; x", PATIENT_MS, &b);
    snprintf(counted, sizeof counted, "%zu\n", ++f->made);
    if (!fault && strcmp(b.text, counted) != 0) fault = "it harmed another interpreter";
    rig_run(&f->r, s, "print(6 * 7)\n", PATIENT_MS, &a);
    if (!fault && t->end != 'd' && !strstr(a.text, "42\n") && !strstr(a.text, "variables")) fault = "the next call of its episode fails";
    toolsvc_python_close(s);
    rig_settle(&f->r, POOL + 1, POOL);
    if (!fault && rig_descendants() != POOL + 1) fault = "something is left running";
    if (!fault && leaked_mounts()) fault = "a mount is left";
    return fault;
}

/* How many are not contained. */
static size_t run_attempts(fixture *f, const attempt *list, size_t n) {
    size_t faults = 0;
    for (size_t i = 0; i < n; i++) {
        const char *fault = run_attempt(f, &list[i]);
        if (!fault) continue;
        faults++;
        fprintf(stderr, "NOT CONTAINED: %s: %s\n", list[i].name, fault);
    }
    printf("%zu attempts, %zu contained\n", n, n - faults);
    return faults;
}

static void every_attempt_is_contained(void **state) {
    fixture *f = *state;
    size_t n = sizeof attempts / sizeof *attempts;
    if (!f) skip();
    assert_true(n >= 60);
    assert_int_equal(run_attempts(f, attempts, n), 0);
    if (f->group[0]) assert_int_equal(run_attempts(f, attempts_in_groups, sizeof attempts_in_groups / sizeof *attempts_in_groups), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        {"every_attempt_is_contained", every_attempt_is_contained, setup, teardown, NULL},
        {"every_attempt_is_contained_in_control_groups", every_attempt_is_contained, setup_groups, teardown, NULL},
    };
    return cmocka_run_group_tests_name("escapes", tests, NULL, NULL);
}
