// A server of Pub/Sub for tests: Google's own fake of it, as a program. It prints where it listens, and keeps nothing.
package main

import (
	"flag"
	"fmt"
	"log"

	"cloud.google.com/go/pubsub/v2/pstest"
)

func main() {
	port := flag.Int("port", 0, "on loopback; 0: any that is free")
	flag.Parse()
	server := pstest.NewServerWithPort(*port)
	if server == nil {
		log.Fatalf("port %d: cannot listen there", *port)
	}
	fmt.Printf("running on %s\n", server.Addr)
	select {}
}
