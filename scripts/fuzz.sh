#!/bin/sh
# fuzz.sh GO TIME OUT [PATTERN]: every fuzz target of the module for TIME, one
# after the other, those alone whose name or directory has PATTERN in it. The
# table is on stdout and in OUT/fuzz.txt, what each said in OUT. A target that
# fails does not end the run; the exit code is 1 in the end. An input is made
# smaller for a second and not for a minute, which is the default and would be
# all of TIME where coverage is not the same each time.
go=$1 time=$2 out=$3 pattern=$4
mkdir -p "$out" || exit 1
table=$out/fuzz.txt
row() { printf '%-28s %-26s %12s %8s  %s\n' "$@" | tee -a "$table"; }
: >"$table"
row target room executions new result
bad=0 n=0
for file in $(grep -rl --include='*_test.go' '^func Fuzz' . | sort); do
	room=${file%/*} room=${room#./}
	for name in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		case $room/$name in *"$pattern"*) ;; *) continue ;; esac
		log=$out/$(echo "$room" | tr / -)-$name.log
		n=$((n + 1)) result=ok
		"$go" test -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 1s "./$room" >"$log" 2>&1 || result="FAIL, see $log" bad=$((bad + 1))
		last=$(grep '^fuzz: elapsed' "$log" | tail -1)
		row "$name" "${room#internal/}" "$(echo "$last" | sed -n 's/.*execs: \([0-9]*\).*/\1/p')" \
			"$(echo "$last" | sed -n 's/.*new interesting: \([0-9]*\).*/\1/p')" "$result"
	done
done
echo "$n targets, $bad failed; inputs that fail are in testdata/fuzz of their room" | tee -a "$table"
[ "$n" -gt 0 ] && [ "$bad" -eq 0 ]
