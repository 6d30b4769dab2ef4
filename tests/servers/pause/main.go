// Command pause is the first process of a pod's sandbox: it holds the namespaces, reaps what it adopts and ends
// when it is told to.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for {
			id, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if id <= 0 || err != nil {
				break
			}
		}
	}
}
