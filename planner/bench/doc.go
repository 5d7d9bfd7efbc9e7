// Package bench measures time, CPU time, memory and requests of the real commands, and of
// the tools that people would otherwise use, on the same registries in the same run. It has
// nothing but benchmarks, which make bench and make bench-report run.
package bench
