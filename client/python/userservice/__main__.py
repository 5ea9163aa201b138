from userservice_server.cli import main
main()
